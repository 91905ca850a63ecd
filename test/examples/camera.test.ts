import { spawn, type ChildProcessByStdio } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import type { Readable } from "node:stream"
import { fileURLToPath } from "node:url"
import { chromium, type Page } from "playwright-core"
import { assert, beforeEach, describe, it } from "vitest"
import { OptionError, parseOptions } from "../../examples/camera/Options.ts"
import { encodeFrame, headerBytes } from "../../examples/camera/Frame.ts"
import { testPicture } from "../../examples/camera/TestPicture.ts"
import { inflateRawSync } from "node:zlib"
import { chromiumService, commandOf, need } from "../support/services.ts"
import { runExample } from "./Processes.ts"

const root = fileURLToPath(new URL("../../", import.meta.url))

/** Runs the example as a user would, until the page has been looked at and Ctrl-C is pressed; gives its exit code. */
const whileRunning = async (args: ReadonlyArray<string>, look: (url: string) => Promise<void>): Promise<number> => {
  const child: ChildProcessByStdio<null, Readable, null> = spawn(
    process.execPath,
    ["examples/camera/main.ts", ...args],
    { cwd: root, stdio: ["ignore", "pipe", "inherit"] }
  )
  const exited = once(child, "exit")
  try {
    const [line] = await Promise.race([once(createInterface(child.stdout), "line"), exited])
    const [url] =
      /http:\/\/127\.0\.0\.1:\d+\//.exec(String(line)) ?? assert.fail(`no address of a page: ${String(line)}`)
    await look(url)
  } finally {
    child.kill("SIGINT")
    await exited
  }
  return child.exitCode ?? -1
}

const inBrowser = async (use: (page: Page) => Promise<void>): Promise<void> => {
  const executablePath = commandOf(chromiumService) ?? assert.fail("no Chromium")
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] })
  try {
    const page = await browser.newPage()
    const errors: Array<string> = []
    page.on("pageerror", error => errors.push(error.message))
    await use(page)
    assert.deepStrictEqual(errors, [])
  } finally {
    await browser.close()
  }
}

/** The number that the picture itself shows, in binary along its lower edge. */
const drawnNumber = (page: Page): Promise<number> =>
  page.evaluate(`(() => {
    const canvas = document.getElementById("picture")
    const { data } = canvas.getContext("2d").getImageData(0, canvas.height - 4, canvas.width, 1)
    let number = 0
    for (let bit = 0; bit < 16; bit++)
      number = number * 2 + (data[4 * Math.floor(((bit + 0.5) / 16) * canvas.width)] > 127 ? 1 : 0)
    return number
  })()`)

const figure = async (page: Page, id: string): Promise<number> =>
  Number.parseFloat((await page.textContent(`#${id}`)) ?? "")

/** Waits until so many frames more have been drawn. */
const framesLater = (page: Page, count: number): Promise<unknown> =>
  page.evaluate(`new Promise(resolve => {
    const element = document.getElementById("frame")
    let left = ${count}
    new MutationObserver(() => --left <= 0 && resolve()).observe(element, { childList: true, characterData: true, subtree: true })
  })`)

const figuresShown = (page: Page) =>
  page.waitForFunction(
    `["rate", "loss", "latency"].every(id => /\\d/.test(document.getElementById(id).textContent))`,
    undefined,
    { timeout: 30_000 }
  )

describe("the camera example", () => {
  describe("in a browser", () => {
    beforeEach(context => need(chromiumService, context))

    it("shows pictures that move, each whole, with rate, loss and latency beside them", async () => {
      const code = await whileRunning([], url =>
        inBrowser(async page => {
          await page.goto(url)
          await figuresShown(page)
          const first = await drawnNumber(page)
          await framesLater(page, 10)
          const later = await drawnNumber(page)
          assert.isAtLeast(later, first + 10)
          assert.isAbove(await figure(page, "rate"), 0)
          assert.isAtLeast(await figure(page, "latency"), 0)
          assert.strictEqual(await page.textContent("#state"), "live")
        })
      )
      assert.strictEqual(code, 0)
    })

    it("goes on through a network that loses and delays, and shows that it does", async () => {
      const code = await whileRunning(["--loss", "10", "--delay", "30ms", "--size", "160x120"], url =>
        inBrowser(async page => {
          await page.goto(url)
          await figuresShown(page)
          const first = await drawnNumber(page)
          await page.waitForFunction(`Number.parseFloat(document.getElementById("loss").textContent) > 0`)
          await framesLater(page, 10)
          assert.isAbove(await drawnNumber(page), first)
          // Real time passes here, but never less than the line takes.
          assert.isAtLeast(await figure(page, "trip"), 60)
        })
      )
      assert.strictEqual(code, 0)
    })
  })

  it("says how it is used, and what is wrong with an option", async () => {
    const help = await runExample("examples/camera/main.ts", "--help")
    assert.strictEqual(help.code, 0)
    assert.include(help.stdout, "--loss PERCENT")
    const wrong = await runExample("examples/camera/main.ts", "--loss", "much")
    assert.strictEqual(wrong.code, 2)
    assert.include(wrong.stderr, `--loss is a number from 0 to 100 (%), not "much"`)
  })

  it("reads its options", () => {
    assert.isUndefined(parseOptions([]).line)
    assert.deepInclude(parseOptions(["--loss", "5", "--delay", "40ms"]).line, { loss: 0.05, delayMs: 40 })
    assert.deepStrictEqual(parseOptions(["--camera", "--rate", "15"]).source, { kind: "camera", path: "/dev/video0" })
    assert.deepStrictEqual(parseOptions(["--video", "a.mp4"]).source, { kind: "video", path: "a.mp4" })
    for (const args of [["--size", "1x1"], ["--camera", "--video", "a"], ["--nothing"], ["--rate", "0"]])
      assert.throws(() => parseOptions(args), OptionError)
  })

  it("packs pictures without loss", () => {
    const picture = testPicture(77, 320, 240)
    const [header, pixels] = encodeFrame(77, picture, 1_234.5, { lossRate: 0.25, roundTripMs: 8 })
    assert.lengthOf(header, headerBytes)
    assert.strictEqual(Buffer.compare(inflateRawSync(pixels), picture.rgb), 0)
    assert.isBelow(pixels.length, picture.rgb.length / 10)
    assert.notDeepEqual(testPicture(78, 320, 240).rgb, picture.rgb)
  })
})
