import { concat, toHex } from "../../src/protocol/Bytes.ts"
import { databaseCheckBytes, databaseHeaderBytes } from "../../src/protocol/constants.ts"
import {
  decodeChanges,
  encodeChange,
  encodeDatabaseHeader,
  firstPosition,
  generationKey,
  parseDatabaseHeader,
  sealFrame,
  type DatabaseChange,
  type DatabaseHeader
} from "../../src/protocol/DatabaseFormat.ts"
import { checkDerivation } from "../../src/protocol/DatabaseKey.ts"
import { DatabaseReader } from "../../src/protocol/DatabaseReader.ts"
import { sha256 } from "../../src/protocol/KeySchedule.ts"
import { expectThat, type FuzzTarget } from "./protocolFuzz.ts"
import type { SeededRandom } from "./protocolRandom.ts"

/** The parsers of the database at rest: who can write to a file is as hostile as who can write to a socket. */

export const masterKey = new Uint8Array(32).fill(3)

export const sampleHeader: DatabaseHeader = {
  derivation: { kdf: "scrypt", cost: 2 ** 17, blockSize: 8, parallelism: 1 },
  salt: new Uint8Array(16).fill(4),
  databaseId: new Uint8Array(16).fill(5),
  generation: 7,
  fileSalt: new Uint8Array(32).fill(6),
  count: 2
}

export const sampleFrames: ReadonlyArray<ReadonlyArray<DatabaseChange>> = [
  [{ kind: "put", key: "a", value: new Uint8Array(40).fill(1) }],
  [{ kind: "put", key: "größe", value: new Uint8Array(0) }],
  [
    { kind: "remove", key: "a" },
    { kind: "put", key: "b", value: Uint8Array.of(1, 2, 3) }
  ],
  [{ kind: "put", key: "c", value: new Uint8Array(20) }]
]

const headerBytes = encodeDatabaseHeader(sampleHeader, masterKey)

/** A whole file: a snapshot of two frames and a log of two. */
export const sampleParts: ReadonlyArray<Uint8Array> = (() => {
  const key = generationKey(masterKey, sampleHeader)
  let position = firstPosition(headerBytes)
  const frames = sampleFrames.map((changes, index) => {
    const salt = new Uint8Array(32).fill(10 + index)
    const sealed = sealFrame(key, position, changes.map(encodeChange), salt)
    position = sealed.next
    return sealed.bytes
  })
  return [headerBytes, ...frames]
})()

const digested = (bytes: Uint8Array): Uint8Array => {
  const fields = bytes.subarray(0, databaseHeaderBytes - databaseCheckBytes)
  return concat(fields, sha256(fields).subarray(0, databaseCheckBytes))
}

/** Whoever changes a header can make its digest right; only the key's check is out of reach. */
const headerRound = (random: SeededRandom): void => {
  const mutated = random.mutate(headerBytes)
  const { derivation, count } = parseDatabaseHeader(random.chance(80) ? digested(mutated) : mutated)
  checkDerivation(derivation)
  expectThat(count <= 1_000_000, "a count beyond the limit")
}

const plainChanges = sampleFrames.map(changes => concat(...changes.map(encodeChange)))

const changesRound = (random: SeededRandom): void => {
  const changes = decodeChanges(random.mutate(random.pick(plainChanges)))
  expectThat(
    changes.every(({ key }) => key.length > 0),
    "a change without a key"
  )
}

/** Changes as text, to be compared. */
export const textOf = (changes: ReadonlyArray<DatabaseChange>): string =>
  changes.map(change => toHex(encodeChange(change))).join(" ")

/** Frames moved, doubled, lost or changed in any way: what is read is the file as it was after one of its changes, or nothing. */
const fileRound = (random: SeededRandom): void => {
  const frames = sampleParts.slice(1)
  const order = random.chance(50)
    ? frames
    : frames.flatMap(frame => (random.chance(20) ? [random.pick(frames)] : [frame]))
  const whole = concat(...order)
  const bytes = random.chance(90) ? random.mutate(whole) : whole
  const reader = new DatabaseReader(sampleHeader, headerBytes, masterKey)
  const read: Array<DatabaseChange> = []
  for (let at = 0; at < bytes.length;) {
    const size = 1 + random.below(200)
    read.push(...reader.push(bytes.subarray(at, at + size)))
    at += size
  }
  const { generation } = reader.end()
  const expected = sampleFrames.slice(0, 2 + generation - sampleHeader.generation).flat()
  expectThat(textOf(read) === textOf(expected), "changes that nobody made in this order")
}

export const databaseTargets: ReadonlyArray<FuzzTarget> = [
  { name: "database header", inputsPerRound: 1, round: headerRound },
  { name: "database changes", inputsPerRound: 1, round: changesRound },
  { name: "database file", inputsPerRound: sampleParts.length, round: fileRound }
]
