import type { EpochEvent, FinishedEvent, JobEvent, StepEvent } from "artifice"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import { oneLine } from "./CliFailure.ts"
import type { CommandResult, Output, TextSink } from "./Output.ts"
import { qrLines } from "./QrCode.ts"

/** What the terminal can show. */
export interface TerminalStyle {
  readonly colors: boolean
  /** Whether a line can be drawn over: without it there is no progress bar. */
  readonly animate: boolean
  /** Columns of the terminal now. */
  readonly columns: () => number
}

const barCells = 20
/** Faster than the eye follows, slow enough to cost nothing. */
const redrawIntervalMs = 100
const eraseLine = "\r\u001b[2K"

const shortPeer = (peer: string): string => peer.slice(0, 8)
const count = (n: number, noun: string): string => `${n} ${noun}${n === 1 ? "" : "s"}`
const percent = (fraction: number | undefined): string =>
  fraction === undefined ? "–" : `${(fraction * 100).toFixed(2)} %`

const compact = (n: number): string =>
  n >= 1e6 ? `${(n / 1e6).toFixed(1)}M` : n >= 1e4 ? `${(n / 1e3).toFixed(1)}k` : n.toFixed(0)

/** `m:ss`, or `h:mm:ss` from an hour on. */
export const formatDuration = (seconds: number): string => {
  const whole = Math.max(0, Math.round(seconds))
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60]
  const [hours, minutes, rest] = parts.map(String)
  return parts[0] === 0
    ? `${minutes}:${rest?.padStart(2, "0")}`
    : `${hours}:${minutes?.padStart(2, "0")}:${rest?.padStart(2, "0")}`
}

type Row = { readonly [field: string]: Schema.Json }
const isRow = (value: Schema.Json): value is Row => typeof value === "object" && value !== null && !Array.isArray(value)
/** A value of a result on one line. */
const cellOf = (value: Schema.Json | undefined): string => {
  if (value === undefined || value === null) return "-"
  if (Array.isArray(value)) return value.length === 0 ? "-" : value.map(cellOf).join(", ")
  return oneLine(typeof value === "string" ? value : JSON.stringify(value))
}

const styles = { bold: "1", dim: "2", red: "31", green: "32", yellow: "33", cyan: "36" } as const

const summary = (event: FinishedEvent): ReadonlyArray<string> => [
  `finished ${oneLine(event.job)}: ${count(event.epochs, "epoch")}, ${count(event.steps, "step")} on ` +
    `${count(event.members, "member")} in ${event.seconds.toFixed(1)} s (${compact(event.examplesPerSecond)} examples/s)`,
  `  train loss ${event.trainLoss.toFixed(4)}   test loss ${event.testLoss.toFixed(4)}   ` +
    `test accuracy ${percent(event.testAccuracy)}`,
  `  ${event.shards.counted} of ${event.shards.expected} shards counted`,
  `  weights sha256 ${event.weightsSha256}`
]

/**
 * For people: lines for what happens to the cluster, a progress bar under them, a summary at the end. Everything that a
 * peer could have written is shown without control characters.
 */
export const make = (stdout: TextSink, stderr: TextSink, style: TerminalStyle): Output => {
  const paint = (name: keyof typeof styles, text: string): string =>
    style.colors ? `\u001b[${styles[name]}m${text}\u001b[0m` : text

  let barShown = false
  let redrawAtMs = Number.NEGATIVE_INFINITY
  let firstStep: { readonly step: number; readonly atMs: number } | undefined
  let lastEpoch: EpochEvent | undefined

  const clearBar = (): void => {
    if (!barShown) return
    stdout.write(eraseLine)
    barShown = false
    redrawAtMs = Number.NEGATIVE_INFINITY
  }

  const line = (text: string): void => {
    clearBar()
    stdout.write(`${text}\n`)
  }

  const drawBar = (event: StepEvent, nowMs: number): void => {
    // A step number below the first one seen means another job on the same output.
    if (firstStep === undefined || event.step < firstStep.step) firstStep = { step: event.step, atMs: nowMs }
    if (!style.animate || (nowMs < redrawAtMs && event.step < event.steps) || stdout.isLagging()) return
    redrawAtMs = nowMs + redrawIntervalMs
    const filled = Math.min(barCells, Math.round((event.step / event.steps) * barCells))
    const stepsSeen = event.step - firstStep.step
    const secondsLeft = ((nowMs - firstStep.atMs) / 1000 / stepsSeen) * (event.steps - event.step)
    const parts = [
      `epoch ${event.epoch}`,
      `${"█".repeat(filled)}${"░".repeat(barCells - filled)}`,
      `step ${event.step}/${event.steps}`,
      `loss ${event.loss.toFixed(4)}`,
      ...(lastEpoch === undefined ? [] : [`acc ${percent(lastEpoch.testAccuracy)}`]),
      `${compact(event.examplesPerSecond)} ex/s`,
      count(event.members, "member"),
      `ETA ${stepsSeen > 0 ? formatDuration(secondsLeft) : "-:--"}`
    ]
    stdout.write(`${eraseLine}${parts.join("  ").slice(0, Math.max(1, style.columns() - 1))}`)
    barShown = true
  }

  const show = (event: JobEvent, nowMs: number): void => {
    switch (event.event) {
      case "process":
        return line(paint("dim", `${event.role} ${shortPeer(event.peer)} is process ${event.pid}`))
      case "listening":
        line(`listening on ${paint("bold", oneLine(event.address))} as ${event.peer}`)
        if (event.dashboard !== undefined) line(`dashboard at ${oneLine(event.dashboard)}`)
        return
      case "invite":
        line(`invite for one machine, until ${oneLine(event.expiresAt)}. There, run:`)
        return line(`  ${paint("cyan", oneLine(event.command))}`)
      case "member-joined":
        return line(`${paint("green", "+")} ${shortPeer(event.peer)} joined (${count(event.members, "member")})`)
      case "member-lost":
        return line(
          `${paint("yellow", "-")} ${shortPeer(event.peer)} lost: ${oneLine(event.reason)} ` +
            `(${count(event.members, "member")})`
        )
      case "view":
        return line(
          paint(
            "dim",
            `view ${event.view}: ${event.members.map(each => `${shortPeer(each.peer)} ×${each.lanes.length}`).join(", ")}`
          )
        )
      case "step":
        return drawBar(event, nowMs)
      case "skipped": {
        const culprit =
          event.lane === undefined ? "the sum of all lanes" : `lane ${event.lane} of ${shortPeer(event.peer)}`
        return line(paint("yellow", `step ${event.step} was skipped: ${culprit} is not finite`))
      }
      case "left-out": {
        const lane = event.lane === undefined ? "" : `, as lane ${event.lane} is not finite`
        return line(paint("yellow", `step ${event.step} went on without ${shortPeer(event.peer)}${lane}`))
      }
      case "epoch":
        lastEpoch = event
        return line(
          `epoch ${event.epoch}  train loss ${event.trainLoss.toFixed(4)}  test loss ${event.testLoss.toFixed(4)}  ` +
            `test accuracy ${paint("bold", percent(event.testAccuracy))}`
        )
      case "resumed":
        return line(
          event.path === undefined
            ? "no checkpoint to resume: the job begins at step 0"
            : `resumed at step ${event.step} from ${oneLine(event.path)}`
        )
      case "checkpoint":
        return line(paint("dim", `checkpoint of step ${event.step}: ${oneLine(event.path)}`))
      case "checkpoint-failed":
        return line(
          paint(
            "yellow",
            `no checkpoint of step ${event.step}: ${oneLine(event.message)}; the job goes on. ${oneLine(event.hint)}`
          )
        )
      case "checkpoint-skipped":
        return line(paint("yellow", `${oneLine(event.path)} is skipped: ${oneLine(event.reason)}`))
      case "finished": {
        const [first = "", ...rest] = summary(event)
        line(paint("green", first))
        return rest.forEach(line)
      }
      case "error":
        return line(paint("red", `${event.code}: ${oneLine(event.message)}`))
    }
  }

  const showResult = ({ event: _, ...fields }: CommandResult): void => {
    const width = Math.max(0, ...Object.keys(fields).map(key => key.length))
    for (const [key, value] of Object.entries(fields)) {
      const values = Array.isArray(value) ? value : [value]
      if (values.length > 0 && values.every(isRow)) showTable(values)
      else
        for (const each of values.length === 0 ? ["-"] : values)
          line(`${paint("dim", key.padEnd(width))}  ${cellOf(each)}`)
    }
  }

  const showTable = (rows: ReadonlyArray<Row>): void => {
    const keys = Object.keys(rows[0] ?? {})
    const cells = rows.map(row => keys.map(key => (key === "peer" ? cellOf(row[key]).slice(0, 16) : cellOf(row[key]))))
    const widths = keys.map((key, column) => Math.max(key.length, ...cells.map(row => (row[column] ?? "").length)))
    const aligned = (row: ReadonlyArray<string>) =>
      row
        .map((text, column) => text.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd()
    line(paint("dim", aligned(keys)))
    for (const row of cells) line(aligned(row))
  }

  // A camera needs light modules that are lighter than the dark ones, whatever the colours of the terminal.
  const showQrCode = (text: string): void => {
    if (!style.colors) return
    for (const each of qrLines(text, style.columns()) ?? []) line(`\u001b[97;40m${each}\u001b[0m`)
  }

  const toStderr = (text: string): void => {
    clearBar()
    stderr.write(`${text}\n`)
  }

  return {
    emit: event => Clock.clockWith(clock => Effect.sync(() => show(event, clock.currentTimeMillisUnsafe()))),
    result: result => Effect.sync(() => showResult(result)),
    qrCode: text => Effect.sync(() => showQrCode(text)),
    note: text => Effect.sync(() => toStderr(text)),
    failure: (failure, details) =>
      Effect.sync(() => {
        toStderr(paint("red", failure.line))
        if (details !== undefined) toStderr(details)
      }),
    end: Effect.sync(() => {
      if (barShown) stdout.write("\n")
      barShown = false
    })
  }
}
