/** One member of an all-reduce of ours: a process that does what its parent asks, one request at a time. */
import { inspect } from "node:util"
import { checkResult } from "./Pattern.ts"
import type { Exchange, MemberAnswers, MemberRequest, Prepared, Reduced, Setting } from "./Member.ts"
import { profiled } from "./Profile.ts"

let work: { readonly setting: Setting; readonly prepared: Prepared } | undefined

const prepared = (): NonNullable<typeof work> => {
  if (work === undefined) throw new Error("nothing is prepared")
  return work
}

const reduce = async (profile: boolean): Promise<Reduced> => {
  const { setting, prepared: steps } = prepared()
  await steps.reduce(0, 1)
  const measured = async (): Promise<Reduced> => {
    const before = process.cpuUsage()
    const started = performance.now()
    await steps.reduce(1, setting.steps)
    const seconds = (performance.now() - started) / 1000
    const { user, system } = process.cpuUsage(before)
    return { seconds, cpuSeconds: (user + system) / 1e6 }
  }
  if (!profile) return measured()
  const { value, parts } = await profiled(measured)
  return { ...value, profile: parts }
}

const check = (): undefined => {
  const { setting, prepared: steps } = prepared()
  const results = steps.results()
  if (results.length !== setting.steps) throw new Error(`${results.length} results of ${setting.steps} steps`)
  for (const [step, values] of results.entries()) {
    if (values.length !== setting.elements) throw new Error(`a result of ${values.length} elements`)
    checkResult(values, setting.members.length, step, steps.divisor)
  }
  steps.close()
  work = undefined
}

const handle = async (exchange: Exchange, request: MemberRequest): Promise<MemberAnswers[keyof MemberAnswers]> => {
  switch (request.kind) {
    case "name":
      return exchange.name()
    case "offer":
      return exchange.offer()
    case "accept":
      await exchange.accept(request.offer)
      return undefined
    case "prepare":
      work = { setting: request.setting, prepared: await exchange.prepare(request.setting) }
      return undefined
    case "reduce":
      return reduce(request.profile)
    case "check":
      return check()
  }
}

export const serve = (exchange: Exchange): void => {
  process.on("message", (request: MemberRequest) => {
    handle(exchange, request).then(
      value => process.send?.({ value }),
      error => process.send?.({ error: inspect(error) })
    )
  })
  process.on("disconnect", () => process.exit())
}
