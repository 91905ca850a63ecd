/** Questions to the person at the terminal: on standard error, as standard output may be read by a program. */
import { createInterface } from "node:readline"
import * as Effect from "effect/Effect"
import { oneLine } from "./CliFailure.ts"

/** Whether somebody is there to be asked. */
export const canAsk = (): boolean => process.stdin.isTTY && process.stderr.isTTY

/** True for an answer that begins with y; a closed input is a no. */
export const askYesNo = (question: string): Effect.Effect<boolean> =>
  Effect.callback<boolean>(resume => {
    const lines = createInterface({ input: process.stdin, output: process.stderr })
    lines.on("close", () => resume(Effect.succeed(false)))
    lines.question(`${oneLine(question)} [y/N] `, answer => {
      resume(Effect.succeed(/^y/i.test(answer.trim())))
      lines.close()
    })
    return Effect.sync(() => lines.close())
  })
