import type { Picture } from "./Frame.ts"

const bars = [0xffffff, 0xffe23c, 0x29d3d6, 0x34c759, 0xd04bd8, 0xff453a, 0x2f6bff, 0x161a22] as const
const ballRadius = 18
const counterBits = 16

/** Bars that wander, a ball that bounces, and at the bottom the number of the frame in binary. */
export const testPicture = (number: number, width: number, height: number): Picture => {
  const rgb = new Uint8Array(width * height * 3)
  const barWidth = width / bars.length
  const counterTop = Math.round(height * 0.88)
  const ballX = bounce(number * 3, ballRadius, width - ballRadius)
  const ballY = bounce(number * 2, ballRadius, counterTop - ballRadius)
  let at = 0
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const bar = bars[Math.floor(((x + number) % width) / barWidth)] ?? 0
      const inBall = (x - ballX) ** 2 + (y - ballY) ** 2 < ballRadius ** 2
      const bit = counterBits - 1 - Math.floor((x / width) * counterBits)
      const counter = ((number >>> bit) & 1) === 1 ? 0xffffff : 0x000000
      const colour = y >= counterTop ? counter : inBall ? 0x101418 : bar
      rgb[at++] = colour >>> 16
      rgb[at++] = (colour >>> 8) & 255
      rgb[at++] = colour & 255
    }
  }
  return { width, height, rgb }
}

/** Goes from `low` to `high` and back. */
const bounce = (distance: number, low: number, high: number): number => {
  const range = high - low
  const place = distance % (2 * range)
  return low + (place < range ? place : 2 * range - place)
}
