import { spawn } from "node:child_process"
import { once } from "node:events"
import { setTimeout as sleep } from "node:timers/promises"
import type { Picture } from "./Frame.ts"
import { testPicture } from "./TestPicture.ts"

/** Where pictures come from. */
export type SourceName = { readonly kind: "test" } | { readonly kind: "camera" | "video"; readonly path: string }

export interface Shape {
  readonly width: number
  readonly height: number
  readonly perSecond: number
}

/** Pictures at a steady rate; what is not taken in time is left out. */
export const pictures = (source: SourceName, shape: Shape): AsyncIterable<Picture> =>
  source.kind === "test" ? drawn(shape) : filmed(source, shape)

async function* drawn({ width, height, perSecond }: Shape): AsyncIterable<Picture> {
  const startedMs = performance.now()
  for (let number = 0; ;) {
    yield testPicture(number, width, height)
    const elapsed = Math.floor(((performance.now() - startedMs) * perSecond) / 1000)
    number = Math.max(number, elapsed) + 1
    await sleep(startedMs + (number * 1000) / perSecond - performance.now())
  }
}

/** Raw video out of ffmpeg: from a V4L2 camera, or from a file, over and over, at the speed at which it is to be seen. */
async function* filmed(source: { readonly kind: string; readonly path: string }, shape: Shape): AsyncIterable<Picture> {
  const { width, height, perSecond } = shape
  const input = source.kind === "camera" ? ["-f", "v4l2"] : ["-re", "-stream_loop", "-1"]
  const fit = `scale=${width}:${height}:force_original_aspect_ratio=decrease,pad=${width}:${height}:-1:-1,fps=${perSecond}`
  const args = ["-loglevel", "error", ...input, "-i", source.path, "-an", "-vf", fit]
  const ffmpeg = spawn("ffmpeg", [...args, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], {
    stdio: ["ignore", "pipe", "inherit"]
  })
  const ended = once(ffmpeg, "exit").then(
    ([code]) => new Error(`ffmpeg ended (${String(code)})`),
    () =>
      new Error(
        `${source.kind === "camera" ? "a camera" : "a video file"} is read by the program ffmpeg, which is not installed`
      )
  )
  const pictureBytes = width * height * 3
  let held = Buffer.alloc(0)
  try {
    for await (const chunk of ffmpeg.stdout) {
      held = Buffer.concat([held, chunk])
      for (; held.length >= pictureBytes; held = held.subarray(pictureBytes))
        yield { width, height, rgb: held.subarray(0, pictureBytes) }
    }
    throw await ended
  } finally {
    ffmpeg.kill()
  }
}
