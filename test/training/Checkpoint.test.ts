import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, it } from "@effect/vitest"
import { Effect, References } from "effect"
import fc from "fast-check"
import { beforeEach, describe } from "vitest"
import { ComputeEngine, cancelled } from "../../src/compute/Engine.ts"
import { optimizerLayout } from "../../src/compute/Optimizer.ts"
import { concat } from "../../src/protocol/Bytes.ts"
import { StoreFiles } from "../../src/store/StoreFiles.ts"
import {
  Checkpoints,
  defaultCheckpointFolder,
  exportSafetensors,
  loadCheckpoint,
  type LoadedCheckpoint
} from "../../src/training/Checkpoint.ts"
import { CheckpointError } from "../../src/training/CheckpointError.ts"
import type { CheckpointState } from "../../src/training/CheckpointFiles.ts"
import { fingerprintOf, type Fingerprint } from "../../src/training/Fingerprint.ts"
import { TrainingJob } from "../../src/training/TrainingJob.ts"
import { MachineStopped, MemoryDisk, type DiskImage } from "../support/MemoryDisk.ts"
import { need, pythonService } from "../support/services.ts"

const fingerprint: Fingerprint = [
  ["name", "small"],
  ["optimizer.learningRate", "0.1"]
]

/** A state of 7 parameters, an optimizer with two vectors and two scalars, and bytes that differ for every step. */
const stateAt = (step: number, term = 1): CheckpointState => ({
  position: { term, view: 2, epoch: 1, step },
  seed: 42,
  ledger: { shardsCounted: 8 * step, epochLossSums: [0.1 + 0.2, 1 / 3] },
  fingerprint,
  leaves: [
    { path: "bias", shape: [] },
    { path: "weight", shape: [2, 3] }
  ],
  optimizer: { vectors: 2, scalars: 2 },
  state: Uint8Array.from({ length: 7 * 4 * 3 + 2 * 8 }, (_, index) => (index * 7 + step * 31 + term) % 256)
})

const temporaryFolder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "artifice-checkpoint-"))),
  folder => Effect.sync(() => rmSync(folder, { recursive: true }))
)

const opened = (keep = 3) =>
  Effect.flatMap(temporaryFolder, folder => Checkpoints.make({ folder: join(folder, "made", "here"), keep }))

const namesIn = (folder: string): ReadonlyArray<string> => readdirSync(folder).toSorted()

const withoutPath = ({ path: _, stateSha256: __, weightsSha256: ___, ...state }: LoadedCheckpoint): CheckpointState =>
  state

const sha256 = (...parts: ReadonlyArray<Uint8Array>): string =>
  parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest("hex")

const expectNewest = Effect.fnUntraced(function* (checkpoints: Checkpoints, expected: CheckpointState) {
  const { checkpoint } = yield* checkpoints.newest(fingerprint)
  if (checkpoint === undefined) return assert.fail("there is no checkpoint")
  assert.deepStrictEqual(withoutPath(checkpoint), expected)
})

describe("Checkpoints", () => {
  it.effect("give back what was saved, to the bit", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      assert.isUndefined((yield* checkpoints.newest(fingerprint)).checkpoint)
      const state = stateAt(200)
      const saved = yield* checkpoints.save(state)
      const { checkpoint, skipped } = yield* checkpoints.newest(fingerprint)
      if (checkpoint === undefined) return assert.fail("it is not there")
      assert.deepStrictEqual(withoutPath(checkpoint), state)
      assert.isEmpty(skipped)
      assert.strictEqual(checkpoint.path, saved.path)
      const step = Buffer.alloc(8)
      step.writeBigUInt64LE(200n)
      assert.strictEqual(checkpoint.stateSha256, sha256(step, state.state))
      assert.strictEqual(checkpoint.weightsSha256, sha256(state.state.subarray(0, 7 * 4)))
      assert.strictEqual(saved.stateSha256, checkpoint.stateSha256)
      const stem = "term-1-step-200"
      assert.deepStrictEqual(namesIn(checkpoints.folder), [
        `${stem}.json`,
        `${stem}.optimizer.safetensors`,
        `${stem}.safetensors`
      ])
      const files = namesIn(checkpoints.folder).map(name => statSync(join(checkpoints.folder, name)))
      assert.strictEqual(
        saved.bytes,
        files.reduce((sum, { size }) => sum + size, 0)
      )
      for (const { mode } of files) assert.strictEqual(mode & 0o777, 0o600)
      assert.strictEqual(statSync(checkpoints.folder).mode & 0o777, 0o700)
    })
  )

  it.effect("hold an optimizer without state, and a model that is one array", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      const state: CheckpointState = {
        ...stateAt(1),
        leaves: [{ path: "", shape: [2] }],
        optimizer: { vectors: 0, scalars: 0 },
        state: Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8])
      }
      yield* checkpoints.save(state)
      yield* expectNewest(checkpoints, state)
    })
  )

  it.effect("hold states in shared memory, as the compute thread has them", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      const plain = stateAt(1)
      const state = new Uint8Array(new SharedArrayBuffer(plain.state.length))
      state.set(plain.state)
      yield* checkpoints.save({ ...plain, state })
      yield* expectNewest(checkpoints, plain)
    })
  )

  it.effect("keep as many as they are told, the newest by term and then by step", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened(2)
      const steps = [
        [1, 100],
        [1, 200],
        [1, 300],
        [2, 250],
        [3, 10]
      ] as const
      for (const [term, step] of steps) yield* checkpoints.save(stateAt(step, term))
      assert.deepStrictEqual(
        (yield* checkpoints.list).map(({ term, step }) => [term, step]),
        [
          [3, 10],
          [2, 250]
        ]
      )
      assert.lengthOf(namesIn(checkpoints.folder), 6)
      assert.strictEqual(yield* checkpoints.highestTerm, 3)
      yield* expectNewest(checkpoints, stateAt(10, 3))
    })
  )

  it.effect("replace one of the same term and step", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      yield* checkpoints.save(stateAt(100))
      const again = { ...stateAt(100), position: { ...stateAt(100).position, view: 9 } }
      yield* checkpoints.save(again)
      yield* expectNewest(checkpoints, again)
      assert.lengthOf(namesIn(checkpoints.folder), 3)
    })
  )

  it.effect("leave files alone that are not theirs, and remove what a crash has left of one", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      const theirs = ["term-1-step-50.safetensors", "term-1-step-60.json.tmp", "term-1-step-60.optimizer.safetensors"]
      const others = ["notes.txt", "term-1.json", "term-7-step-1.safetensors.tmp"]
      for (const name of [...theirs, ...others]) writeFileSync(join(checkpoints.folder, name), "x")
      yield* checkpoints.save(stateAt(100, 2))
      const left = namesIn(checkpoints.folder).filter(name => !name.startsWith("term-2-"))
      // What has a higher term another coordinator may be writing now.
      assert.deepStrictEqual(left, others)
    })
  )

  it.effect("refuse a coordinator whose term is over", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      yield* checkpoints.save(stateAt(100, 5))
      const error = yield* Effect.flip(checkpoints.save(stateAt(900, 4)))
      assert.strictEqual(error.reason, "StaleTerm")
      assert.match(error.message, /term 5 .* this is term 4/)
      yield* expectNewest(checkpoints, stateAt(100, 5))
    })
  )

  it.effect("skip one of another job, and say in what it differs", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      yield* checkpoints.save(stateAt(100))
      const other: Fingerprint = [
        ["name", "small"],
        ["optimizer.learningRate", "0.2"]
      ]
      yield* checkpoints.save({ ...stateAt(200), fingerprint: other })
      const { checkpoint, skipped } = yield* checkpoints.newest(fingerprint)
      assert.strictEqual(checkpoint?.position.step, 100)
      assert.lengthOf(skipped, 1)
      assert.match(skipped[0]?.reason ?? "", /its optimizer.learningRate is 0.2, where this job has 0.1/)
      assert.isUndefined((yield* checkpoints.newest([])).checkpoint)
    })
  )

  it.effect.each([
    { what: "a loss sum that is not finite", change: { ledger: { shardsCounted: 1, epochLossSums: [NaN] } } },
    { what: "a step that is no integer", change: { position: { term: 1, view: 1, epoch: 1, step: 0.5 } } },
    { what: "a state of another length", change: { state: new Uint8Array(7) } },
    {
      what: "two leaves of one name",
      change: { leaves: [0, 1, 2, 3, 4, 5, 6].map(index => ({ path: index < 2 ? "a" : `b${index}`, shape: [] })) }
    }
  ])("refuse $what, and leave nothing of it", ({ change }) =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      yield* checkpoints.save(stateAt(100))
      const error = yield* Effect.flip(checkpoints.save({ ...stateAt(200), ...change }))
      assert.strictEqual(error.reason, "Invalid")
      yield* checkpoints.save(stateAt(300))
      assert.lengthOf(namesIn(checkpoints.folder), 6)
    })
  )

  it("are below the working directory unless told otherwise", () => {
    assert.strictEqual(defaultCheckpointFolder("mnist"), join(process.cwd(), ".artifice", "mnist"))
  })
})

describe("A damaged checkpoint", () => {
  const flip = (path: string, at: number): void => {
    const bytes = readFileSync(path)
    bytes[at < 0 ? bytes.length + at : at] = (bytes.at(at) ?? 0) ^ 1
    writeFileSync(path, bytes)
  }
  const kinds = [".json", ".safetensors", ".optimizer.safetensors"]
  const damages = kinds.flatMap(kind => [
    { what: `whose ${kind} is missing`, kind, damage: unlinkSync },
    { what: `whose ${kind} is empty`, kind, damage: (path: string) => truncateSync(path, 0) },
    { what: `whose ${kind} is cut`, kind, damage: (path: string) => truncateSync(path, statSync(path).size - 2) },
    { what: `whose ${kind} is longer`, kind, damage: (path: string) => writeFileSync(path, "{}", { flag: "a" }) },
    { what: `whose ${kind} differs in its first bit`, kind, damage: (path: string) => flip(path, 0) },
    { what: `whose ${kind} differs near its end`, kind, damage: (path: string) => flip(path, -3) },
    {
      what: `whose ${kind} is zeros`,
      kind,
      damage: (path: string) => writeFileSync(path, new Uint8Array(statSync(path).size))
    }
  ])

  it.effect.each(damages)("$what is skipped with its reason, and the one before it used", ({ kind, damage }) =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      yield* checkpoints.save(stateAt(100))
      const { path } = yield* checkpoints.save(stateAt(200))
      const damaged = path.replace(".json", kind)
      damage(damaged)
      const { checkpoint, skipped } = yield* checkpoints.newest(fingerprint)
      assert.deepStrictEqual(checkpoint && withoutPath(checkpoint), stateAt(100))
      if (kind === ".json" && !namesIn(checkpoints.folder).includes("term-1-step-200.json")) return
      assert.deepStrictEqual(
        skipped.map(({ path }) => path),
        [path]
      )
      assert.isAbove(skipped[0]?.reason.length ?? 0, 10)
      const error = yield* Effect.flip(loadCheckpoint(path))
      assert.isTrue(error instanceof CheckpointError && error.hint !== "")
    })
  )

  it.effect("that was renamed is not taken for another", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      const { path } = yield* checkpoints.save(stateAt(100))
      for (const kind of kinds) {
        const from = path.replace(".json", kind)
        writeFileSync(from.replace("step-100", "step-900"), readFileSync(from))
      }
      const { checkpoint, skipped } = yield* checkpoints.newest(fingerprint)
      assert.strictEqual(checkpoint?.path, path)
      assert.match(skipped[0]?.reason ?? "", /its name says another place/)
    })
  )

  it.effect("of a later release says so", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      const { path } = yield* checkpoints.save(stateAt(100))
      const { checkpoint } = JSON.parse(readFileSync(path, "utf8"))
      const later = { ...checkpoint, format: 2 }
      writeFileSync(path, JSON.stringify({ sha256: sha256(Buffer.from(JSON.stringify(later))), checkpoint: later }))
      const error = yield* Effect.flip(loadCheckpoint(path))
      assert.strictEqual(error.reason, "Version")
      assert.match(error.message, /its format is 2/)
    })
  )

  it.effect("never gives a state that was not saved, whatever one byte of it becomes", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      const { path } = yield* checkpoints.save(stateAt(100))
      yield* Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(
            fc.constantFrom(...kinds),
            fc.nat(),
            fc.integer({ min: 1, max: 255 }),
            async (kind, at, bits) => {
              const file = path.replace(".json", kind)
              const whole = readFileSync(file)
              const bytes = Buffer.from(whole)
              const place = at % bytes.length
              bytes[place] = (bytes[place] ?? 0) ^ bits
              writeFileSync(file, bytes)
              const result = await Effect.runPromiseExit(loadCheckpoint(path))
              writeFileSync(file, whole)
              // White space of the manifest may change.
              if (result._tag === "Success") assert.deepStrictEqual(withoutPath(result.value), stateAt(100))
            }
          ),
          { numRuns: 300 }
        )
      )
    })
  )

  it.effect.each([
    { what: "parameters beyond counting", leaves: [{ path: "w", shape: [2 ** 52, 2 ** 52] }], vectors: 0 },
    { what: "terabytes of parameters", leaves: [{ path: "w", shape: [2 ** 40] }], vectors: 0 },
    { what: "more vectors than any optimizer has", leaves: [{ path: "w", shape: [0] }], vectors: 1e9 },
    { what: "more scalars than its files hold", leaves: [{ path: "w", shape: [1] }], vectors: 0, scalars: 4_096 }
  ])("that describes $what is refused before memory is asked for", ({ leaves, vectors, scalars = 0 }) =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      const { path } = yield* checkpoints.save(stateAt(100))
      const { checkpoint } = JSON.parse(readFileSync(path, "utf8"))
      const hostile = { ...checkpoint, leaves, optimizer: { vectors, scalars } }
      writeFileSync(path, JSON.stringify({ sha256: sha256(Buffer.from(JSON.stringify(hostile))), checkpoint: hostile }))
      const error = yield* Effect.flip(loadCheckpoint(path))
      assert.include(["Damaged", "Version"], error.reason)
    })
  )
})

describe("A checkpoint that is not finished", () => {
  const quietly = Effect.provideService(References.MinimumLogLevel, "None")
  const on = (disk: MemoryDisk) => Effect.provideService(StoreFiles, disk)
  const saveOn = (disk: MemoryDisk, state: CheckpointState, keep = 1) =>
    Checkpoints.make({ folder: "checkpoints", keep }).pipe(
      Effect.flatMap(checkpoints => checkpoints.save(state)),
      on(disk),
      quietly
    )
  const newestOn = (disk: MemoryDisk) =>
    Checkpoints.make({ folder: "checkpoints", keep: 1 }).pipe(
      Effect.flatMap(checkpoints => checkpoints.newest(fingerprint)),
      Effect.map(({ checkpoint }) => checkpoint?.position.step),
      on(disk)
    )

  it.effect("is the one before it or the new one, wherever the machine stops, and never none", () =>
    Effect.gen(function* () {
      const before = new MemoryDisk()
      yield* saveOn(before, stateAt(100))
      const image: DiskImage = before.files
      const steps = yield* Effect.gen(function* () {
        const disk = new MemoryDisk(image)
        yield* saveOn(disk, stateAt(200))
        return disk.steps
      })
      assert.isAbove(steps, 15)
      const seen = new Set<number>()
      for (let stopAt = 0; stopAt < steps; stopAt++) {
        const disk = new MemoryDisk(image)
        disk.stopAt = stopAt
        const finished = yield* Effect.exit(saveOn(disk, stateAt(200)))
        for (const found of disk.images()) {
          const again = new MemoryDisk(found)
          const step = yield* newestOn(again)
          if (step === undefined) return assert.fail(`no checkpoint is left after a stop at change ${stopAt}`)
          if (finished._tag === "Success") assert.strictEqual(step, 200)
          seen.add(step)
          yield* saveOn(again, stateAt(300, 2))
          assert.strictEqual(yield* newestOn(again), 300)
          assert.lengthOf([...again.files.keys()], 3)
        }
      }
      assert.deepStrictEqual([...seen].toSorted(), [100, 200])
    })
  )

  it.effect.each(["write", "sync", "rename"] as const)("for want of space at a %s is an error with what to do", call =>
    Effect.gen(function* () {
      const disk = new MemoryDisk()
      yield* saveOn(disk, stateAt(100))
      const names = [...disk.files.keys()].toSorted()
      disk.failing = { call, error: Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" }) }
      const error = yield* Effect.flip(saveOn(disk, stateAt(200)))
      assert.strictEqual(error.reason, "DiskFull")
      assert.match(error.hint, /Make room/)
      assert.strictEqual(yield* newestOn(disk), 100)
      assert.deepStrictEqual([...disk.files.keys()].toSorted(), names)
      disk.failing = undefined
      yield* saveOn(disk, stateAt(300))
      assert.strictEqual(yield* newestOn(disk), 300)
    })
  )

  it.effect("is an error when the machine stops under it, no defect", () =>
    Effect.gen(function* () {
      const disk = new MemoryDisk()
      disk.stopAt = 3
      const error = yield* Effect.flip(saveOn(disk, stateAt(100)))
      assert.strictEqual(error.reason, "Io")
      assert.strictEqual(error.message, new MachineStopped().message)
    })
  )

  it.effect("by a process that may write no more ends in an error, and the one before it is there", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      yield* checkpoints.save(stateAt(100))
      const child = join(import.meta.dirname, "../fixtures/saveCheckpoint.ts")
      // In blocks of 512 or 1,024 bytes: the state of the child is larger.
      const command = `ulimit -f 64 && exec "$0" "$1" "$2"`
      const { status, stdout, stderr } = spawnSync("sh", ["-c", command, process.execPath, child, checkpoints.folder], {
        encoding: "utf8"
      })
      assert.strictEqual(status, 0, stderr)
      assert.deepStrictEqual(JSON.parse(stdout), { reason: "DiskFull", steps: [100] })
      yield* expectNewest(checkpoints, stateAt(100))
      assert.lengthOf(namesIn(checkpoints.folder), 3)
    })
  )
})

describe("A checkpoint of a large state", () => {
  it.effect("is saved and read without a second copy of it", () =>
    Effect.gen(function* () {
      const elements = 4 * 1024 * 1024
      const bytes = elements * 4 * 3
      const state = new Uint8Array(bytes).fill(7)
      const checkpoints = yield* opened()
      const peakOf = <A, E>(effect: Effect.Effect<A, E>) =>
        Effect.gen(function* () {
          const before = process.memoryUsage().arrayBuffers
          let peak = before
          const timer = setInterval(() => (peak = Math.max(peak, process.memoryUsage().arrayBuffers)), 1)
          const result = yield* Effect.ensuring(
            effect,
            Effect.sync(() => clearInterval(timer))
          )
          return { result, extra: Math.max(peak, process.memoryUsage().arrayBuffers) - before }
        })
      const layout = { leaves: [{ path: "w", shape: [elements] }], optimizer: { vectors: 2, scalars: 0 } }
      const saved = yield* peakOf(checkpoints.save({ ...stateAt(1), ...layout, state }))
      const loaded = yield* peakOf(checkpoints.newest(fingerprint))
      const slack = 8 * 1024 * 1024
      assert.isBelow(saved.extra, slack)
      assert.isBelow(loaded.extra, bytes + slack)
      assert.isTrue(
        loaded.result.checkpoint !== undefined && Buffer.compare(loaded.result.checkpoint.state, state) === 0
      )
    })
  )
})

describe("A checkpoint of a job", () => {
  beforeEach(context => need(pythonService, context))

  it.effect(
    "has the hashes of its compute engine, and parameters that another program reads by the names of the leaves",
    () =>
      Effect.gen(function* () {
        const job = yield* TrainingJob.load("test/fixtures/jobs/clouds.ts")
        const engine = yield* Effect.promise(() => ComputeEngine.load(job))
        engine.initialise()
        const gradient = new Float32Array(engine.info.parameterCount)
        assert.notStrictEqual(engine.computeNode({ epoch: 1, step: 0, from: 0, to: 1 }, gradient), cancelled)
        engine.applyStep(gradient)
        const { parameters, optimizerState } = engine
        const parts = [parameters, ...optimizerState.vectors, optimizerState.scalars]
        const state = concat(...parts.map(part => new Uint8Array(part.buffer, part.byteOffset, part.byteLength)))
        const layout = optimizerLayout(job.optimizer)
        const checkpoints = yield* opened()
        const own = fingerprintOf(job, engine.info)
        const { path } = yield* checkpoints.save({
          position: { term: 1, view: 1, epoch: 1, step: 1 },
          seed: job.seed,
          ledger: { shardsCounted: 1, epochLossSums: [0.5] },
          fingerprint: own,
          leaves: engine.info.leaves,
          optimizer: { vectors: layout.vectors, scalars: layout.scalars.length },
          state
        })
        const { checkpoint } = yield* checkpoints.newest(own)
        assert.strictEqual(checkpoint?.stateSha256, engine.stateSha256(1))
        assert.strictEqual(checkpoint?.weightsSha256, engine.weightsSha256())

        const out = join(checkpoints.folder, "exported.safetensors")
        const exported = yield* exportSafetensors(path, out)
        assert.strictEqual(exported.weightsSha256, engine.weightsSha256())
        assert.strictEqual(exported.tensors, engine.info.leaves.length)
        const script = join(import.meta.dirname, "../support/read_safetensors.py")
        const { status, stdout, stderr } = spawnSync("python3", [script, out], { encoding: "utf8" })
        assert.strictEqual(status, 0, stderr)
        let from = 0
        const expected = engine.info.leaves.map(({ path, shape }) => {
          const elements = shape.reduce((product, each) => product * each, 1)
          const bytes = state.subarray(4 * from, 4 * (from += elements))
          return JSON.stringify([path, "F32", shape, Buffer.from(bytes).toString("hex")])
        })
        const lines = stdout.trim().split("\n").slice(1)
        assert.deepStrictEqual(lines.map(line => JSON.stringify(JSON.parse(line))).toSorted(), expected.toSorted())
      })
  )
})

describe("The export of a checkpoint", () => {
  it.effect("takes the newest of a folder", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      yield* checkpoints.save(stateAt(100))
      const { path } = yield* checkpoints.save(stateAt(200))
      const out = join(checkpoints.folder, "out.safetensors")
      assert.strictEqual((yield* exportSafetensors(checkpoints.folder, out)).path, path)
      assert.deepStrictEqual(readFileSync(out), readFileSync(path.replace(".json", ".safetensors")))
    })
  )

  it.effect("of a damaged one fails, and leaves what was there", () =>
    Effect.gen(function* () {
      const checkpoints = yield* opened()
      const { path } = yield* checkpoints.save(stateAt(100))
      const parameters = path.replace(".json", ".safetensors")
      const bytes = readFileSync(parameters)
      bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1
      writeFileSync(parameters, bytes)
      const out = join(checkpoints.folder, "out.safetensors")
      writeFileSync(out, "what was there")
      const error = yield* Effect.flip(exportSafetensors(path, out))
      assert.strictEqual(error.reason, "Damaged")
      assert.strictEqual(readFileSync(out, "utf8"), "what was there")
      assert.isFalse(namesIn(checkpoints.folder).some(name => name.endsWith(".tmp")))
    })
  )

  it.effect.each([
    { what: "a file that is not there", path: "nothing.json" },
    { what: "a folder without checkpoints", path: "." }
  ])("of $what fails", ({ path }) =>
    Effect.gen(function* () {
      const { folder } = yield* opened()
      const error = yield* Effect.flip(exportSafetensors(join(folder, path), join(folder, "out")))
      assert.strictEqual(error.reason, "Missing")
    })
  )
})
