// A plain ring over TCP, unencrypted: N − 1 steps of reduce-scatter, N − 1 of all-gather, each of which sends one of N chunks to the next member
// and takes one from the one before. What comes is added as it comes; a chunk goes on once it is whole.
import { connect, createServer, type Socket } from "node:net"
import { addInto } from "../../src/compute/LaneTree.ts"
import { bytesOf } from "../../src/node/GradientExchanger.ts"
import { segmentOf, type Segment } from "../../src/training/Segments.ts"
import { serve } from "./End.ts"
import type { Exchange, Prepared, Setting } from "./Member.ts"
import { fillInput } from "./Pattern.ts"

/** Bytes read at once. */
const readBufferBytes = 256 * 1024
const floatBytes = Float32Array.BYTES_PER_ELEMENT

let next: Socket | undefined
/** What the bytes that arrive are for; what comes before it is asked for waits in the socket. */
let incoming: ((bytes: Uint8Array) => void) | undefined

const offer = (): Promise<string> =>
  new Promise((resolve, reject) => {
    const server = createServer(socket => {
      next = socket.setNoDelay(true)
      socket.on("error", () => undefined)
      server.close()
    })
    server.once("error", reject)
    server.listen(0, "127.0.0.1", () => {
      const address = server.address()
      if (typeof address === "object" && address !== null) resolve(String(address.port))
      else reject(new Error("no port"))
    })
  })

/** The side that reads dials, as Node lets only that one read into a buffer of its own. */
const accept = (port: string): Promise<void> =>
  new Promise((resolve, reject) => {
    const onread = {
      buffer: Buffer.allocUnsafeSlow(readBufferBytes),
      callback: (bytes: number, buffer: Uint8Array): boolean => {
        incoming?.(buffer.subarray(0, bytes))
        return true
      }
    }
    connect({ host: "127.0.0.1", port: Number(port), onread }, resolve).once("error", reject)
  })

class RingStep {
  readonly #values: Float32Array
  readonly #chunks: ReadonlyArray<Segment>
  readonly #rank: number
  readonly #staging: Float32Array
  readonly #done: () => void
  /** Chunks that have come, of 2·(N − 1), and bytes of the one that comes. */
  #received = 0
  #filled = 0
  #added = 0

  constructor(values: Float32Array, staging: Float32Array, { rank, members }: Setting, done: () => void) {
    this.#values = values
    this.#staging = staging
    this.#rank = rank
    this.#done = done
    this.#chunks = members.map((_, owner) => segmentOf(values.length, owner, members.length))
  }

  get #size(): number {
    return this.#chunks.length
  }

  #chunk(index: number): Float32Array {
    const { from, to } = this.#chunks[((index % this.#size) + this.#size) % this.#size] ?? { from: 0, to: 0 }
    return this.#values.subarray(from, to)
  }

  /** In both halves a member sends on what it has taken in the step before, and begins with its own chunk. */
  send(step: number): void {
    if (next === undefined) throw new Error("the next member has not connected")
    next.write(bytesOf(this.#chunk(this.#rank - step)))
  }

  /** Takes bytes of this all-reduce; gives those that are of the next one. */
  take(bytes: Uint8Array): Uint8Array {
    let rest = bytes
    while (rest.length > 0 && this.#received < 2 * (this.#size - 1)) {
      const target = this.#chunk(this.#rank - this.#received - 1)
      const reducing = this.#received < this.#size - 1
      const staging = reducing ? this.#staging.subarray(0, target.length) : target
      const part = rest.subarray(0, target.length * floatBytes - this.#filled)
      bytesOf(staging).set(part, this.#filled)
      this.#filled += part.length
      rest = rest.subarray(part.length)
      if (reducing) {
        const whole = Math.floor(this.#filled / floatBytes)
        addInto(target.subarray(this.#added, whole), staging.subarray(this.#added, whole))
        this.#added = whole
      }
      if (this.#filled < target.length * floatBytes) break
      this.#filled = 0
      this.#added = 0
      this.#received++
      if (this.#received < 2 * (this.#size - 1)) this.send(this.#received)
    }
    if (this.#received === 2 * (this.#size - 1)) this.#done()
    return rest
  }
}

/** Kept from one measurement to the next: memory that has been touched before. */
let arrays: ReadonlyArray<Float32Array> = []

const prepare = async (setting: Setting): Promise<Prepared> => {
  const { rank, elements, steps, members } = setting
  if (arrays.length !== steps || arrays[0]?.length !== elements)
    arrays = Array.from({ length: steps }, () => new Float32Array(elements))
  const results = arrays
  for (const [step, values] of results.entries()) fillInput(values, rank, step)
  const staging = new Float32Array(Math.ceil(elements / members.length)).fill(NaN)
  /** Bytes of the step to come: a member may be one ahead of this one. */
  let early: Array<Uint8Array> = []
  const hold = (bytes: Uint8Array): void => void early.push(Uint8Array.from(bytes))
  incoming = hold
  const reduceOne = (index: number): Promise<void> =>
    new Promise(resolve => {
      const values = results[index]
      if (values === undefined) throw new Error(`no step ${index}`)
      let over = false
      const step = new RingStep(values, staging, setting, () => {
        over = true
        incoming = hold
        resolve()
      })
      const take = (bytes: Uint8Array): void => {
        const rest = over ? bytes : step.take(bytes)
        if (rest.length > 0) hold(rest)
      }
      const waiting = early
      early = []
      step.send(0)
      incoming = take
      for (const bytes of waiting) take(bytes)
    })
  return {
    reduce: async (from, to) => {
      for (let index = from; index < to; index++) await reduceOne(index)
    },
    results: () => results,
    divisor: 1,
    close: () => (incoming = undefined)
  }
}

const ring: Exchange = { name: async () => String(process.pid), offer, accept, prepare }

serve(ring)
