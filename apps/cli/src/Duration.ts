import * as Result from "effect/Result"

const unitMs = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const
const minMs = 10 * unitMs.s
const maxMs = 7 * unitMs.d

const isUnit = (text: string | undefined): text is keyof typeof unitMs => text !== undefined && text in unitMs

/** A whole number and its unit, such as `90s`, `10m`, `2h` or `1d`: milliseconds, from 10 s to 7 d. Fails with what is expected, in words. */
export const parseDuration = (text: string): Result.Result<number, string> => {
  const [, digits, unit] = /^(\d{1,9})([a-z])$/.exec(text) ?? []
  if (!isUnit(unit)) return Result.fail("a whole number with s, m, h or d, such as 10m")
  const durationMs = Number(digits) * unitMs[unit]
  return durationMs < minMs || durationMs > maxMs ? Result.fail("a time from 10s to 7d") : Result.succeed(durationMs)
}
