import { fork } from "node:child_process"
import { isRecord } from "../../src/compute/Options.ts"

/** A process that answers one request at a time, in order; it ends with this one or by `stop`. */
export interface Child<Request, Answers> {
  readonly ask: <Kind extends keyof Answers>(request: Request & { readonly kind: Kind }) => Promise<Answers[Kind]>
  readonly stop: () => void
}

/** The longest that one answer may take: a process that hangs must not hang the benchmark. */
const answerTimeoutMs = 60_000

/** @param enter what comes before the command, if anything: the first word is a program that runs the rest */
export const startChild = <Request extends { readonly kind: string }, Answers>(
  module: URL,
  execArgv: ReadonlyArray<string> = [],
  enter: ReadonlyArray<string> = []
): Child<Request, Answers> => {
  const [execPath = process.execPath, ...rest] = [...enter, process.execPath, ...execArgv]
  const child = fork(module, { serialization: "advanced", execPath, execArgv: rest, stdio: ["ignore", 2, 2, "ipc"] })
  return {
    ask: request =>
      new Promise((resolve, reject) => {
        const onExit = (code: number | null) => reject(new Error(`a process under test ended with code ${code}`))
        const timeout = setTimeout(
          () => reject(new Error(`no answer to ${JSON.stringify(request)} within ${answerTimeoutMs / 1000} s`)),
          answerTimeoutMs
        )
        child.once("exit", onExit)
        child.once("message", reply => {
          clearTimeout(timeout)
          child.off("exit", onExit)
          if (isRecord(reply) && "error" in reply) reject(new Error(String(reply.error)))
          // A child answers a request of a kind with the answer of that kind.
          else resolve((isRecord(reply) ? reply.value : undefined) as Answers[typeof request.kind])
        })
        child.send(request)
      }),
    stop: () => (child.connected ? child.disconnect() : undefined)
  }
}
