// The direct exchange of training between real peers, over their encrypted sessions: everything but the model.
import { Effect } from "effect"
import { jobIdBytes } from "../../src/protocol/constants.ts"
import { isPeerId, type PeerId } from "../../src/protocol/Identity.ts"
import { viewStreams } from "../../src/node/GradientExchanger.ts"
import type { PeerNode } from "../../src/node/PeerNode.ts"
import { Changed } from "../../src/training/Changed.ts"
import type { ViewPlan } from "../../src/training/DirectProtocol.ts"
import { sharedFloats } from "../../src/training/Replica.ts"
import { segmentOf } from "../../src/training/Segments.ts"
import { ViewExchange } from "../../src/training/ViewExchange.ts"
import { ViewStreams } from "../../src/training/ViewStreams.ts"
import { run, startPeer } from "../transport/Artifice.ts"
import { serve } from "./End.ts"
import type { Exchange, Prepared, Setting } from "./Member.ts"
import { fillInput } from "./Pattern.ts"

const jobId = new Uint8Array(jobIdBytes).fill(7)
const term = 1
const loss = 1

interface Peer {
  readonly node: PeerNode["Service"]
  readonly streams: ViewStreams
}

const changed = new Changed()
let lost: PeerId | undefined
let view = 0

const started: Promise<Peer> = startPeer(true).then(async node => {
  const streams = new ViewStreams(node, jobId, (_exchange, peer) => {
    lost = peer
    changed.notify()
  })
  await run(node.onBulk(viewStreams, streams.take))
  return { node, streams }
})

/** Each member computes one lane and reduces one segment, in the order of the PeerIDs. */
const planOf = ({ members, elements }: Setting): ViewPlan => {
  const peers = members.filter(isPeerId).toSorted()
  return {
    term,
    view,
    base: 0,
    stateSha256: "0".repeat(64),
    lossSums: [0, 0],
    members: peers.map((peer, index) => {
      const { from, to } = segmentOf(elements, index, peers.length)
      return { peer, lanes: [index], segment: [from, to] as const }
    }),
    observers: [],
    gifts: []
  }
}

let arrays:
  | {
      readonly key: string
      readonly inputs: ReadonlyArray<Float32Array>
      readonly outputs: ReadonlyArray<Float32Array>
    }
  | undefined

/** Memory that has been touched before, as a replica's has in all steps but its first. Only the inputs keep what is in them. */
const arraysFor = ({ rank, members, elements, steps }: Setting) => {
  const key = [rank, members, elements, steps].join()
  if (arrays?.key !== key) {
    const each = () => Array.from({ length: steps }, () => sharedFloats(elements))
    arrays = { key, inputs: each(), outputs: each() }
    for (const [step, values] of arrays.inputs.entries()) fillInput(values, rank, step)
  }
  for (const values of arrays.outputs) values.fill(NaN)
  return arrays
}

const prepare = async (setting: Setting): Promise<Prepared> => {
  const { node, streams } = await started
  const { members, elements, steps } = setting
  view++
  const { inputs, outputs } = arraysFor(setting)
  const exchange = new ViewExchange({
    self: node.identity.peerId,
    plan: planOf(setting),
    jobId,
    lanes: members.length,
    elements,
    steps,
    stateBytes: 0,
    compression: undefined,
    vector: undefined,
    free: [...outputs],
    send: streams.send,
    changed: () => changed.notify()
  })
  const [own] = exchange.nodes
  if (own === undefined) throw new Error("this member has no part in the view")
  streams.begin(exchange)
  await run(streams.open(exchange))
  const results: Array<Float32Array> = []
  const reduceOne = (index: number): Effect.Effect<void> =>
    Effect.gen(function* () {
      const input = inputs[index]
      if (input === undefined) return yield* Effect.die(new Error(`no step ${index}`))
      exchange.contribute(index + 1, own, input, loss)
      const { values } = yield* changed.until(() => {
        if (lost !== undefined) throw new Error(`the way to ${lost} is lost`)
        return exchange.take(index + 1)
      })
      results.push(values)
    })
  return {
    reduce: (from, to) =>
      run(
        Effect.gen(function* () {
          for (let index = from; index < to; index++) yield* reduceOne(index)
        })
      ),
    results: () => results,
    divisor: members.length,
    close: () => {
      exchange.close()
      streams.end()
    }
  }
}

const direct: Exchange = {
  name: async () => (await started).node.identity.peerId,
  offer: async () => (await run((await started).node.invite({ name: "bench" }))).token,
  accept: async token => {
    await run((await started).node.join(token))
  },
  prepare
}

serve(direct)
