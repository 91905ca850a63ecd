/**
 * The process's own standard streams: a reader that goes away is no failure of the job, and while an `Output` owns
 * standard output nothing else reaches it.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { TextSink } from "./Output.ts"

type WriteCallback = (error?: Error | null) => void

/**
 * Keeps the process alive when the reader of standard output or standard error goes away (EPIPE) or the terminal is
 * closed (EIO): what is written from then on is lost, the job goes on.
 */
export const survivePipeLoss = (): void => {
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {})
}

export const stderrSink: TextSink = {
  write: text => void process.stderr.write(text),
  isLagging: () => process.stderr.writableNeedDrain
}

/**
 * Standard output for one writer until the scope closes. What anything else writes there, a `console.log` in a job's
 * module or in its compute thread, goes to `stray`.
 */
export const takeStdout = (stray: (text: string) => void): Effect.Effect<TextSink, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const write = process.stdout.write
      const own = write.bind(process.stdout)
      process.stdout.write = (
        chunk: string | Uint8Array,
        encodingOrDone?: BufferEncoding | WriteCallback,
        done?: WriteCallback
      ) => {
        const encoding = typeof encodingOrDone === "string" ? encodingOrDone : "utf8"
        stray(typeof chunk === "string" ? chunk : Buffer.from(chunk).toString(encoding))
        const callback = typeof encodingOrDone === "function" ? encodingOrDone : done
        if (callback !== undefined) process.nextTick(callback)
        return true
      }
      const sink: TextSink = { write: text => void own(text), isLagging: () => process.stdout.writableNeedDrain }
      return { sink, write }
    }),
    ({ write }) =>
      Effect.sync(() => {
        process.stdout.write = write
      })
  ).pipe(Effect.map(({ sink }) => sink))

/** Until both streams have handed everything to the system: `process.exit` would cut it off where writes are queued. */
export const flush: Effect.Effect<void> = Effect.callback<void>(resume => {
  let pending = 2
  const done = (): void => {
    pending -= 1
    if (pending === 0) resume(Effect.void)
  }
  process.stdout.write("", done)
  process.stderr.write("", done)
})
