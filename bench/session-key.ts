import {
  constants,
  createCipheriv,
  createDecipheriv,
  createSecretKey,
  generateKeyPairSync,
  privateDecrypt,
  publicEncrypt,
  randomBytes,
  type KeyObject
} from "node:crypto"
import { RecordOpener, RecordSealer, release } from "../src/protocol/Records.ts"
import { atLeast, rounded, type Benchmark, type BenchmarkOptions, type Row } from "./support/Benchmark.ts"
import { alternate, median } from "./support/Statistics.ts"

/**
 * One session key against a fresh RSA-wrapped key in each packet: the claim ("at least 4 times faster") of the crate that this project
 * began as, for sealing and opening one packet.
 */

const payloads = [1_400, 16 * 1024, 64 * 1024] as const
const moduli = [2048, 3072] as const

interface Subject {
  readonly name: string
  readonly modulus: number | undefined
  readonly bytes: number
  /** Seals and opens one packet. */
  readonly run: () => void
  /** Packets in one measurement. */
  readonly packets: number
}

const sessionKey = (bytes: number): Subject => {
  const secret = randomBytes(32)
  const sealer = new RecordSealer(secret)
  const opener = new RecordOpener(secret)
  const payload = [randomBytes(bytes)]
  const run = (): void => {
    const parts = sealer.seal(0, 0, 1, payload)
    for (const part of parts) opener.push(part, record => release(record.payload))
    parts.forEach(release)
  }
  return { name: "session key", modulus: undefined, bytes, run, packets: 2_000 }
}

interface RsaKeys {
  readonly publicKey: KeyObject
  readonly privateKey: KeyObject
}

const oaep = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" }
const tagLength = { authTagLength: 16 }

/** The packet carries its key, wrapped for the receiver. */
const keyPerPacket = ({ publicKey, privateKey }: RsaKeys, modulus: number, bytes: number): Subject => {
  const payload = randomBytes(bytes)
  const run = (): void => {
    const raw = randomBytes(32)
    const nonce = randomBytes(12)
    const cipher = createCipheriv("aes-256-gcm", createSecretKey(raw), nonce, tagLength)
    const sealed = cipher.update(payload)
    cipher.final()
    const wrapped = publicEncrypt({ key: publicKey, ...oaep }, raw)

    const unwrapped = createSecretKey(privateDecrypt({ key: privateKey, ...oaep }, wrapped))
    const decipher = createDecipheriv("aes-256-gcm", unwrapped, nonce, tagLength)
    decipher.setAuthTag(cipher.getAuthTag())
    const opened = decipher.update(sealed)
    decipher.final()
    release(sealed)
    release(opened)
  }
  return { name: "key per packet", modulus, bytes, run, packets: 40 }
}

/** Microseconds per packet. */
const measure = async ({ run, packets }: Subject): Promise<number> => {
  const started = performance.now()
  for (let packet = 0; packet < packets; packet++) run()
  return ((performance.now() - started) * 1000) / packets
}

const run = async ({ quick, note }: BenchmarkOptions) => {
  note("making RSA keys")
  const keys = moduli.map(modulus => [modulus, generateKeyPairSync("rsa", { modulusLength: modulus })] as const)
  const subjects = payloads.flatMap(bytes => [
    sessionKey(bytes),
    ...keys.map(([modulus, pair]) => keyPerPacket(pair, modulus, bytes))
  ])
  note("measuring")
  const rounds = quick ? 11 : 41
  // The first rounds are for the compiler.
  await alternate(subjects, 2, measure)
  const measured = await alternate(subjects, rounds, measure)
  const microseconds = (subject: Subject): number => median(measured.get(subject) ?? [])

  const rows: Array<Row> = []
  const ratios: Array<readonly [name: string, ratio: number]> = []
  for (const bytes of payloads) {
    const [own, ...others] = subjects.filter(subject => subject.bytes === bytes)
    if (own === undefined) continue
    const ownMicroseconds = microseconds(own)
    rows.push({ packet: own.name, bytes, "seal + open µs": rounded(ownMicroseconds), "× session key": 1 })
    for (const other of others) {
      const ratio = microseconds(other) / ownMicroseconds
      const packet = `RSA-${other.modulus} key in each`
      rows.push({ packet, bytes, "seal + open µs": rounded(microseconds(other)), "× session key": rounded(ratio) })
      ratios.push([`RSA-${other.modulus} key in each packet / session key, ${bytes} B`, ratio])
    }
  }
  return { rows, goals: ratios.map(([name, ratio]) => atLeast(name, ratio, 4)) }
}

export default { needsPeers: false, run } satisfies Benchmark
