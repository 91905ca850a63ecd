import * as Result from "effect/Result"

/**
 * One `--set path=value`: an option of the job by its path, such as `optimizer.learningRate`, and the text of its value.
 * What paths and values there are is the job's to decide.
 */
export type Override = readonly [path: string, text: string]

const pathPattern = /^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$/

/** Fails with what is expected, in words. The value may hold further `=` and may be empty. */
export const parseOverride = (text: string): Result.Result<Override, string> => {
  const equals = text.indexOf("=")
  const path = text.slice(0, Math.max(0, equals))
  if (path === "") return Result.fail("path=value, such as epochs=5 or optimizer.learningRate=1e-3")
  if (!pathPattern.test(path)) return Result.fail("a path of option names joined by dots before the =")
  return Result.succeed([path, text.slice(equals + 1)])
}
