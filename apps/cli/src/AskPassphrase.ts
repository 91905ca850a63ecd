import { createInterface } from "node:readline"
import { Writable } from "node:stream"
import * as Effect from "effect/Effect"

/** What is typed is not shown: it goes nowhere. */
const nowhere = (): Writable => new Writable({ write: (_chunk, _encoding, done) => done() })

/** Asks for a passphrase on the terminal; the question goes to standard error. Undefined where the input was closed. */
export const askPassphrase = (question: string): Effect.Effect<string | undefined> =>
  Effect.callback<string | undefined>(resume => {
    const lines = createInterface({ input: process.stdin, output: nowhere(), terminal: true })
    process.stderr.write(question)
    lines.on("SIGINT", () => process.kill(process.pid, "SIGINT"))
    lines.on("close", () => {
      process.stderr.write("\n")
      resume(Effect.succeed(undefined))
    })
    lines.question("", answer => {
      resume(Effect.succeed(answer))
      lines.close()
    })
    return Effect.sync(() => lines.close())
  })
