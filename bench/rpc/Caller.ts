import type { TlsCredentials } from "../transport/Sockets.ts"
import { percentile } from "../support/Statistics.ts"

/** What the calls of one measurement did. */
export interface Load {
  readonly calls: number
  readonly seconds: number
  /** Of the calls, each from its start to its reply, in milliseconds. */
  readonly p50: number
  readonly p99: number
}

export interface LoadOptions {
  /** Calls that are under way at any time. */
  readonly concurrency: number
  readonly seconds: number
  /** Bytes of the payload. */
  readonly bytes: number
  /** `echo`: the payload comes back. `count`: only its size does. */
  readonly reply: "echo" | "count"
}

/** The calling end of one RPC system. */
export interface Caller {
  /** Calls again and again until the time is over. */
  readonly load: (options: LoadOptions) => Promise<Load>
}

/** One RPC system, as it runs in two processes. */
export interface RpcSystem {
  /** Serves; gives what `connect` needs, as text. */
  readonly listen: (credentials: TlsCredentials) => Promise<string>
  readonly connect: (credentials: TlsCredentials, endpoint: string) => Promise<Caller>
}

/** Checks a reply: a benchmark of wrong answers says nothing. */
export const isRight = ({ bytes, reply }: LoadOptions, answer: unknown): boolean =>
  reply === "count" ? answer === bytes : answer instanceof Uint8Array && answer.length === bytes

export const loadOf = (times: ReadonlyArray<number>, seconds: number): Load => ({
  calls: times.length,
  seconds,
  p50: percentile(times, 0.5),
  p99: percentile(times, 0.99)
})

/** Loads a system whose calls are Promises. */
export const promiseLoad = async (
  call: (reply: LoadOptions["reply"], payload: Uint8Array) => Promise<unknown>,
  options: LoadOptions
): Promise<Load> => {
  const payload = new Uint8Array(options.bytes).fill(0xa5)
  const times: Array<number> = []
  const started = performance.now()
  const end = started + options.seconds * 1000
  const loop = async () => {
    for (let begun = started; begun < end; begun = performance.now()) {
      const answer = await call(options.reply, payload)
      if (!isRight(options, answer)) throw new Error("a wrong reply")
      times.push(performance.now() - begun)
    }
  }
  await Promise.all(Array.from({ length: options.concurrency }, loop))
  return loadOf(times, (performance.now() - started) / 1000)
}
