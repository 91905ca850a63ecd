import { parseArgs } from "node:util"
import type { Line } from "./LossyProxy.ts"
import type { Shape, SourceName } from "./Source.ts"

export const help = `Streams a camera from one process to another over SLLP, and shows it on a web page.

  npx node examples/camera/main.ts [options]

  --loss PERCENT      lose so many of the datagrams, 0 to 100
  --delay MS          hold each datagram up for so long, one way: 40 or 40ms
  --seed N            which datagrams are lost; default 1
  --camera [DEVICE]   film with a V4L2 camera instead of drawing a test picture; default /dev/video0; needs ffmpeg
  --video FILE        play a video file; needs ffmpeg
  --size WxH          default 320x240
  --rate N            pictures per second, 1 to 60; default 30
  --listen HOST:PORT  where the receiver waits for the sender; default 127.0.0.1:0
  --port N            port of the page on 127.0.0.1; default: the system chooses
  --help              this text

Ctrl-C ends it.
`

/** What was asked for cannot be done; the message says what can. */
export class OptionError extends Error {}

export interface Options {
  readonly help: boolean
  readonly source: SourceName
  readonly shape: Shape
  /** Undefined: nothing stands in between. */
  readonly line: Partial<Line> | undefined
  readonly seed: number
  readonly listen: string
  readonly port: number
}

const numberOf = (name: string, text: string, unit: string, least: number, greatest: number): number => {
  const digits = text.endsWith(unit) ? text.slice(0, text.length - unit.length) : text
  const value = digits.trim() === "" ? Number.NaN : Number(digits)
  if (value >= least && value <= greatest) return value
  throw new OptionError(
    `--${name} is a number from ${least} to ${greatest}${unit === "" ? "" : ` (${unit})`}, not "${text}"`
  )
}

const sizeOf = (text: string): { readonly width: number; readonly height: number } => {
  const [, width = "", height = ""] = /^(\d+)x(\d+)$/.exec(text) ?? []
  const isSide = (side: number) => side >= 64 && side <= 1_024
  if (!isSide(Number(width)) || !isSide(Number(height)))
    throw new OptionError(`--size is WIDTHxHEIGHT, each 64 to 1024, not "${text}"`)
  return { width: Number(width), height: Number(height) }
}

/** Throws OptionError. */
export const parseOptions = (args: ReadonlyArray<string>): Options => {
  // `--camera` may stand alone.
  const given = args.flatMap((arg, place) =>
    arg === "--camera" && (args[place + 1] ?? "--").startsWith("--") ? ["--camera", "/dev/video0"] : [arg]
  )
  try {
    const { values } = parseArgs({
      args: given,
      options: {
        loss: { type: "string" },
        delay: { type: "string" },
        seed: { type: "string", default: "1" },
        camera: { type: "string" },
        video: { type: "string" },
        size: { type: "string", default: "320x240" },
        rate: { type: "string", default: "30" },
        listen: { type: "string", default: "127.0.0.1:0" },
        port: { type: "string", default: "0" },
        help: { type: "boolean", default: false }
      }
    })
    const { loss, delay, seed, camera, video, size, rate, listen, port } = values
    if (camera !== undefined && video !== undefined) throw new OptionError("give --camera or --video, not both")
    return {
      help: values.help,
      source:
        camera !== undefined
          ? { kind: "camera", path: camera }
          : video !== undefined
            ? { kind: "video", path: video }
            : { kind: "test" },
      shape: { ...sizeOf(size), perSecond: numberOf("rate", rate, "", 1, 60) },
      line:
        loss === undefined && delay === undefined
          ? undefined
          : {
              loss: numberOf("loss", loss ?? "0", "%", 0, 100) / 100,
              delayMs: numberOf("delay", delay ?? "0", "ms", 0, 10_000)
            },
      seed: numberOf("seed", seed, "", 0, 2 ** 32 - 1),
      listen,
      port: numberOf("port", port, "", 0, 65_535)
    }
  } catch (error) {
    if (error instanceof TypeError) throw new OptionError(error.message)
    throw error
  }
}

/** For a program's own arguments: says what is wrong with them, or how to use it, and ends. */
export const readOptions = (): Options => {
  try {
    const options = parseOptions(process.argv.slice(2))
    if (!options.help) return options
    console.log(help)
    return process.exit()
  } catch (error) {
    if (!(error instanceof OptionError)) throw error
    console.error(`${error.message}\n\n${help}`)
    return process.exit(2)
  }
}
