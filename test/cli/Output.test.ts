import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import { failed } from "../../apps/cli/src/CliFailure.ts"
import * as JsonOutput from "../../apps/cli/src/JsonOutput.ts"
import type { TextSink } from "../../apps/cli/src/Output.ts"
import * as TerminalOutput from "../../apps/cli/src/TerminalOutput.ts"
import { encode } from "uqr"
import type { FinishedEvent, StepEvent } from "../../src/training/JobEvent.ts"

const peer = "0123456789abcdef".repeat(4)

const step = (number: number): StepEvent => ({
  event: "step",
  epoch: 1,
  step: number,
  steps: 100,
  loss: 0.5,
  examplesPerSecond: 12_345,
  members: 2
})

const finished: FinishedEvent = {
  event: "finished",
  job: "mnist",
  epochs: 1,
  steps: 100,
  members: 2,
  seconds: 8.25,
  examplesPerSecond: 12_345,
  trainLoss: 0.1,
  testLoss: 0.2,
  testAccuracy: 0.9712,
  weightsSha256: "ab".repeat(32),
  shards: { expected: 800, counted: 800 }
}

class Recorder implements TextSink {
  text = ""
  lagging = false
  readonly write = (text: string): void => {
    this.text += text
  }
  readonly isLagging = (): boolean => this.lagging
  get lines(): ReadonlyArray<string> {
    return this.text.split("\n").slice(0, -1)
  }
  get objects(): ReadonlyArray<Record<string, unknown>> {
    return this.lines.map(line => JSON.parse(line))
  }
}

describe("JsonOutput", () => {
  it.effect("prints one object per line with its event and the time", () =>
    Effect.gen(function* () {
      const stdout = new Recorder()
      const output = JsonOutput.make(stdout, new Recorder())
      yield* TestClock.setTime(Date.UTC(2026, 10, 23))
      yield* output.emit({ event: "member-lost", peer, members: 1, reason: "it\nbroke" })
      yield* output.result({ event: "id", peer, addresses: ["127.0.0.1:7000"] })
      assert.deepStrictEqual(stdout.objects, [
        { event: "member-lost", at: "2026-11-23T00:00:00.000Z", peer, members: 1, reason: "it\nbroke" },
        { event: "id", at: "2026-11-23T00:00:00.000Z", peer, addresses: ["127.0.0.1:7000"] }
      ])
    })
  )

  it.effect("prints at most 4 steps in any second and every other event", () =>
    Effect.gen(function* () {
      const stdout = new Recorder()
      const output = JsonOutput.make(stdout, new Recorder())
      for (let ms = 0; ms < 3000; ms += 10) {
        yield* output.emit(step(ms / 10 + 1))
        yield* output.emit({ event: "member-joined", peer, members: 2 })
        yield* TestClock.adjust(10)
      }
      const steps = stdout.objects.filter(object => object["event"] === "step")
      const times = steps.map(object => Date.parse(String(object["at"])))
      assert.strictEqual(steps.length, 12)
      for (const from of times) assert.isAtMost(times.filter(at => at >= from && at < from + 1000).length, 4)
      assert.strictEqual(stdout.objects.length - steps.length, 300)
    })
  )

  it.effect("leaves out steps, and nothing else, while the reader lags behind", () =>
    Effect.gen(function* () {
      const stdout = new Recorder()
      const output = JsonOutput.make(stdout, new Recorder())
      stdout.lagging = true
      yield* output.emit(step(1))
      yield* output.emit(finished)
      stdout.lagging = false
      yield* output.emit(step(2))
      assert.deepStrictEqual(
        stdout.objects.map(object => object["event"]),
        ["finished", "step"]
      )
    })
  )

  it.effect("tells a failure as an error event and as one line on standard error", () =>
    Effect.gen(function* () {
      const stdout = new Recorder()
      const stderr = new Recorder()
      const failure = failed({
        code: "PORT_IN_USE",
        message: "Port 7000 is taken\n  by another",
        hint: "Choose another."
      })
      yield* JsonOutput.make(stdout, stderr).failure(failure)
      const [error] = stdout.objects
      assert.strictEqual(error?.["code"], "PORT_IN_USE")
      assert.strictEqual(error?.["hint"], "Choose another.")
      assert.deepStrictEqual(stderr.lines, ["artifice: Port 7000 is taken by another. Choose another."])
    })
  )
})

const terminal = (style: Partial<TerminalOutput.TerminalStyle> = {}) => {
  const stdout = new Recorder()
  const stderr = new Recorder()
  const output = TerminalOutput.make(stdout, stderr, { colors: false, animate: true, columns: () => 200, ...style })
  return { stdout, stderr, output }
}

const eraseLine = "\r\u001b[2K"

describe("TerminalOutput", () => {
  it.effect("draws a bar with epoch, step, loss, accuracy, speed, members and the time left", () =>
    Effect.gen(function* () {
      const { stdout, output } = terminal()
      yield* output.emit({ event: "epoch", epoch: 1, trainLoss: 0.4, testLoss: 0.3, testAccuracy: 0.915 })
      yield* output.emit(step(1))
      yield* TestClock.adjust("10 seconds")
      yield* output.emit(step(51))
      const bar = stdout.text.slice(stdout.text.lastIndexOf(eraseLine) + eraseLine.length)
      for (const part of [
        "epoch 1",
        "step 51/100",
        "loss 0.5000",
        "acc 91.50 %",
        "12.3k ex/s",
        "2 members",
        "ETA 0:10"
      ]) {
        assert.include(bar, part)
      }
      assert.strictEqual([...bar].filter(cell => cell === "█").length, 10)
    })
  )

  it.effect("redraws at most 10 times per second", () =>
    Effect.gen(function* () {
      const { stdout, output } = terminal()
      for (let number = 1; number <= 99; number++) {
        yield* output.emit(step(number))
        yield* TestClock.adjust(10)
      }
      assert.strictEqual(stdout.text.split(eraseLine).length - 1, 10)
    })
  )

  it.effect("clears the bar before a line, and keeps it within the terminal", () =>
    Effect.gen(function* () {
      const { stdout, stderr, output } = terminal({ columns: () => 30 })
      yield* output.emit(step(1))
      assert.isAtMost(stdout.text.length - eraseLine.length, 29)
      yield* output.emit({ event: "member-joined", peer, members: 1 })
      assert.isTrue(stdout.text.endsWith(`${eraseLine}+ 01234567 joined (1 member)\n`))
      yield* output.emit(step(50))
      yield* output.note("a log")
      assert.isTrue(stdout.text.endsWith(eraseLine))
      assert.deepStrictEqual(stderr.lines, ["a log"])
    })
  )

  it.effect("leaves the cursor on a line of its own", () =>
    Effect.gen(function* () {
      const { stdout, output } = terminal()
      yield* output.emit(step(1))
      yield* output.end
      assert.isTrue(stdout.text.endsWith("\n"))
      yield* output.end
      assert.isFalse(stdout.text.endsWith("\n\n"))
    })
  )

  it.effect("ends with a summary", () =>
    Effect.gen(function* () {
      const { stdout, output } = terminal()
      yield* output.emit(finished)
      assert.strictEqual(stdout.lines[0], "finished mnist: 1 epoch, 100 steps on 2 members in 8.3 s (12.3k examples/s)")
      assert.include(stdout.text, "test accuracy 97.12 %")
      assert.include(stdout.text, "800 of 800 shards")
      assert.include(stdout.text, finished.weightsSha256)
    })
  )

  it.effect("shows the command of an invite whole", () =>
    Effect.gen(function* () {
      const { stdout, output } = terminal({ columns: () => 20 })
      const command = `npx artifice worker --join artf1.${"x".repeat(300)}`
      yield* output.emit({ event: "invite", token: "t", expiresAt: "2026-11-23T00:10:00.000Z", command })
      assert.isTrue(stdout.lines.includes(`  ${command}`))
    })
  )

  it.effect("lets no control character of a peer through", () =>
    Effect.gen(function* () {
      const { stdout, stderr, output } = terminal()
      yield* output.emit({ event: "member-lost", peer, members: 0, reason: "\u001b[2J\u0007bye\u009b1m\n" })
      yield* output.failure(failed({ code: "X", message: "\u001b]0;title\u0007", hint: "" }))
      // oxlint-disable-next-line no-control-regex
      assert.notMatch(stdout.text + stderr.text, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/)
    })
  )

  it.effect("uses neither colours nor a bar where the terminal has none", () =>
    Effect.gen(function* () {
      const plain = terminal({ animate: false })
      yield* plain.output.emit(step(1))
      yield* plain.output.emit(finished)
      assert.notInclude(plain.stdout.text, "\u001b")
      const coloured = terminal({ colors: true })
      yield* coloured.output.emit(finished)
      assert.include(coloured.stdout.text, "\u001b[32m")
    })
  )

  it.effect("shows a list of peers as a table, with ids that are long enough to name them by", () =>
    Effect.gen(function* () {
      const { stdout, output } = terminal()
      const peers = [
        { peer, lastSeen: "2026-11-23T00:00:00.000Z", addresses: ["10.0.0.1:7000", "[::1]:7000"] },
        { peer: "ff".repeat(32), lastSeen: null, addresses: [] }
      ]
      yield* output.result({ event: "peers-list", peers })
      assert.deepStrictEqual(stdout.lines, [
        "peer              lastSeen                  addresses",
        "0123456789abcdef  2026-11-23T00:00:00.000Z  10.0.0.1:7000, [::1]:7000",
        "ffffffffffffffff  -                         -"
      ])
    })
  )

  it.effect("shows a QR code light on dark, where there are colours and columns enough", () =>
    Effect.gen(function* () {
      const token = `artf1.${"Ab9_-".repeat(45)}`
      const { data, size } = encode(token, { ecc: "L", border: 4 })
      const { stdout, output } = terminal({ colors: true, columns: () => size })
      yield* output.qrCode(token)
      assert.lengthOf(stdout.lines, Math.ceil(size / 2))
      const light = { "█": [true, true], "▀": [true, false], "▄": [false, true], " ": [false, false] } as const
      const isKnown = (cell: string): cell is keyof typeof light => cell in light
      stdout.lines.forEach((line, pair) => {
        // oxlint-disable-next-line no-control-regex
        const [, cells = ""] = /^\u001b\[97;40m(.*)\u001b\[0m$/.exec(line) ?? []
        assert.lengthOf([...cells], size)
        ;[...cells].forEach((cell, column) => {
          if (!isKnown(cell)) return assert.fail(`"${cell}"`)
          const [upper, lower] = light[cell]
          assert.strictEqual(upper, data[2 * pair]?.[column] === false)
          if (2 * pair + 1 < size) assert.strictEqual(lower, data[2 * pair + 1]?.[column] === false)
        })
      })
      for (const style of [
        { colors: true, columns: () => size - 1 },
        { colors: false, columns: () => 200 }
      ]) {
        const without = terminal(style)
        yield* without.output.qrCode(token)
        assert.strictEqual(without.stdout.text, "")
      }
    })
  )

  it("shows durations as people write them", () => {
    assert.deepStrictEqual([0, 9.6, 61, 3600, 36_061].map(TerminalOutput.formatDuration), [
      "0:00",
      "0:10",
      "1:01",
      "1:00:00",
      "10:01:01"
    ])
  })
})
