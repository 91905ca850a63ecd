import { expect, it } from "vitest"
import { runSchedule } from "../support/protocolSchedule.ts"

const schedules = 2_000

it(`${schedules} random schedules of opening, sending, reading, answering, finishing and resetting deliver exactly the bytes`, () => {
  for (let seed = 1; seed <= schedules; seed++) expect([seed, runSchedule(seed)]).toEqual([seed, []])
}, 120_000)
