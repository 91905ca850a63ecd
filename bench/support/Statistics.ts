/** The value below which `share` (0 to 1) of the values lie, by nearest rank. NaN of none. */
export const percentile = (values: ReadonlyArray<number>, share: number): number => {
  const sorted = values.toSorted((left, right) => left - right)
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? NaN
}

/** The middle value, or the mean of the two in the middle. NaN of none. */
export const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((left, right) => left - right)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? NaN) + upper) / 2
}

/**
 * Runs every subject once per round, in an order that is turned by one each round, so that a slow minute of the machine
 * meets all of them alike. Gives each subject's figures in the order of rounds.
 */
export const alternate = async <Subject, Figure>(
  subjects: ReadonlyArray<Subject>,
  rounds: number,
  measure: (subject: Subject, round: number) => Promise<Figure>
): Promise<Map<Subject, Array<Figure>>> => {
  const figures = new Map<Subject, Array<Figure>>(subjects.map(subject => [subject, []]))
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < subjects.length; turn++) {
      const subject = subjects[(turn + round) % subjects.length]
      if (subject === undefined) continue
      figures.get(subject)?.push(await measure(subject, round))
    }
  }
  return figures
}
