import { membersNeeded } from "../compute/Aggregation.ts"
import { describeGiven, JobOptionError } from "../compute/Options.ts"
import { CoordinatorError } from "./CoordinatorError.ts"
import { isRobust, type AllReduceOptions, type StrategyOptions } from "./Strategy.ts"

/** What of a job says how many members may compute. */
interface Job {
  readonly strategy: StrategyOptions
  readonly lanes: number
}

/** The largest number up to `available` that divides the lanes. */
export const equalMembers = (lanes: number, available: number): number => {
  for (let members = Math.min(lanes, available); members > 1; members--) if (lanes % members === 0) return members
  return Math.min(1, available)
}

/** How many of so many members compute: under a robust rule all of them have equally many lanes, and those left over are spares. */
export const computingMembers = ({ strategy, lanes }: Job, available: number): number =>
  isRobust(strategy) ? equalMembers(lanes, available) : Math.min(lanes, available)

/** The fewest members that make a view in which the job's rule holds what it promises. */
export const leastMembers = ({ strategy, lanes }: Job): number => {
  if (!isRobust(strategy)) return 1
  let members = membersNeeded(strategy)
  while (members < lanes && lanes % members !== 0) members++
  return members
}

const mostHostile = (strategy: AllReduceOptions, lanes: number): number => {
  let { hostile } = strategy
  while (hostile > 0 && membersNeeded({ ...strategy, hostile }) > lanes) hostile--
  return hostile
}

/**
 * Checks that there are lanes for as many members as the job's rule needs.
 * @throws JobOptionError at `strategy.hostile`, or at `lanes` where no number of liars would do
 */
export const checkLanes = ({ strategy, lanes }: Job): void => {
  if (!isRobust(strategy) || membersNeeded(strategy) <= lanes) return
  const { aggregation } = strategy
  const hostile = mostHostile(strategy, lanes)
  if (membersNeeded({ ...strategy, hostile }) > lanes)
    throw new JobOptionError({
      path: "lanes",
      given: describeGiven(lanes),
      allowed: `${membersNeeded({ ...strategy, hostile: 0 })} or more with ${aggregation}`
    })
  throw new JobOptionError({
    path: "strategy.hostile",
    given: describeGiven(strategy.hostile),
    allowed: `at most ${hostile} with ${aggregation} and ${lanes} lanes`
  })
}

/** Why so many workers are too few to begin with, where they are. */
export const tooFewWorkers = (job: Job, workers: number): CoordinatorError | undefined => {
  const { strategy, lanes } = job
  if (!isRobust(strategy)) return undefined
  const computing = equalMembers(lanes, workers)
  const needed = membersNeeded(strategy)
  if (computing >= needed) return undefined
  const { aggregation, hostile } = strategy
  return CoordinatorError.tooFewWorkers({
    aggregation,
    hostile,
    needed,
    lanes,
    workers,
    computing,
    least: leastMembers(job)
  })
}
