import { fork } from "node:child_process"
import { isRecord } from "../../src/compute/Options.ts"

/** A process that answers one request at a time, in order; it ends with this one or by `stop`. */
export interface Child<Request, Answers> {
  readonly ask: <Kind extends keyof Answers>(request: Request & { readonly kind: Kind }) => Promise<Answers[Kind]>
  readonly stop: () => void
}

export const startChild = <Request extends { readonly kind: string }, Answers>(
  module: URL,
  execArgv: ReadonlyArray<string> = []
): Child<Request, Answers> => {
  const child = fork(module, { serialization: "advanced", execArgv: [...execArgv], stdio: ["ignore", 2, 2, "ipc"] })
  return {
    ask: request =>
      new Promise((resolve, reject) => {
        const onExit = (code: number | null) => reject(new Error(`a process under test ended with code ${code}`))
        child.once("exit", onExit)
        child.once("message", reply => {
          child.off("exit", onExit)
          if (isRecord(reply) && "error" in reply) reject(new Error(String(reply.error)))
          // A child answers a request of a kind with the answer of that kind.
          else resolve((isRecord(reply) ? reply.value : undefined) as Answers[typeof request.kind])
        })
        child.send(request)
      }),
    stop: () => child.disconnect()
  }
}
