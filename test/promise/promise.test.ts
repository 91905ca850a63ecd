import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "vitest"
import {
  Rpc,
  RpcGroup,
  Schema,
  startPeer,
  TensorRef,
  type CallContext,
  type JobEvent,
  type Peer
} from "../../src/promise.ts"

class Odd extends Schema.TaggedError<Odd>()("Odd", { n: Schema.Number }) {}

const Numbers = RpcGroup.make(
  Rpc.make("Half", { payload: { n: Schema.Number }, success: Schema.Number, error: Odd }),
  Rpc.make("Count", { payload: { to: Schema.Number }, success: Schema.Number, error: Odd, stream: true }),
  Rpc.make("WhoAmI", { success: Schema.String }),
  Rpc.make("Wait"),
  Rpc.make("Sum", { payload: { numbers: TensorRef }, success: Schema.Number })
)

const loopback = "127.0.0.1:0"

/** A host that serves numbers and a guest that is paired with it. */
const meet = async (onWait: (signal: AbortSignal) => void = () => undefined) => {
  const host = await startPeer({ listen: loopback })
  const guest = await startPeer()
  const stop = await host.serve("numbers", Numbers, {
    Half: ({ n }) => {
      if (n === 13) throw new Error("a bug")
      if (n % 2 === 1) throw new Odd({ n })
      return n / 2
    },
    Count: async function* ({ to }) {
      for (let n = 1; n <= to; n++) yield n
      if (to % 2 === 1) throw new Odd({ n: to })
    },
    WhoAmI: (_payload, { peer }: CallContext) => peer,
    Wait: (_payload, { signal }) =>
      new Promise<void>(() => {
        onWait(signal)
      }),
    Sum: async ({ numbers }, { peer }) => {
      const array = await host.takeTensor(numbers, peer)
      let sum = 0
      for (const n of array) sum += Number(n)
      return sum
    }
  })
  const { token } = await host.invite({ name: "test" })
  assert.strictEqual(await guest.join(token), host.id)
  return { host, guest, stop, numbers: guest.client(host.id, "numbers", Numbers) }
}

const failureOf = async (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    value => assert.fail(`it gave ${String(value)}`),
    (error: unknown) => error
  )

const tagOf = (error: unknown): unknown =>
  typeof error === "object" && error !== null && "_tag" in error ? error._tag : error

const collect = async <A>(elements: AsyncIterable<A>): Promise<Array<A>> => {
  const all: Array<A> = []
  for await (const element of elements) all.push(element)
  return all
}

const closeAll = async (...peers: ReadonlyArray<Peer>) => {
  for (const peer of peers) await peer.close()
}

describe("a peer of Promises", () => {
  it("pairs, serves and calls; errors of the protocol reject as they are, bugs do not end the peer", async () => {
    const { host, guest, numbers } = await meet()
    assert.strictEqual(await numbers.Half({ n: 4 }), 2)
    assert.deepStrictEqual(await failureOf(numbers.Half({ n: 3 })), new Odd({ n: 3 }))
    assert.include(String(await failureOf(numbers.Half({ n: 13 }))), "a bug")
    assert.strictEqual(await numbers.WhoAmI(), guest.id)
    await closeAll(guest, host)
  })

  it("reads streams with for await, up to an error or as far as it likes", async () => {
    const { host, guest, numbers } = await meet()
    assert.deepStrictEqual(await collect(numbers.Count({ to: 4 })), [1, 2, 3, 4])
    assert.deepStrictEqual(await failureOf(collect(numbers.Count({ to: 3 }))), new Odd({ n: 3 }))
    for await (const n of numbers.Count({ to: 1_000_000 })) if (n === 3) break
    assert.strictEqual(await numbers.Half({ n: 2 }), 1)
    await closeAll(guest, host)
  })

  it("gives a call up by its signal, and the handler's signal tells", async () => {
    const aborted = Promise.withResolvers<void>()
    const giveUp = new AbortController()
    const { host, guest, numbers } = await meet(signal => {
      signal.addEventListener("abort", () => aborted.resolve())
      giveUp.abort()
    })
    await failureOf(numbers.Wait(undefined, { signal: giveUp.signal }))
    await aborted.promise
    await closeAll(guest, host)
  })

  it("rejects at once when the other peer goes, and when nobody serves the name any more", async () => {
    const waiting = Promise.withResolvers<void>()
    const { host, guest, numbers, stop } = await meet(() => waiting.resolve())
    const call = failureOf(numbers.Wait())
    await waiting.promise
    await stop()
    await call
    assert.strictEqual(tagOf(await failureOf(numbers.Half({ n: 2 }))), "ActorStopped")
    await host.close()
    const gone = tagOf(await failureOf(numbers.Half({ n: 2 })))
    assert.include(["PeerLost", "SessionError"], gone)
    await guest.close()
  })

  it("serves only whom it says", async () => {
    const { host, guest } = await meet()
    await host.serve("mine", Numbers, noHandlers, {
      authorize: async (peer, rpc) => peer === guest.id && rpc === "WhoAmI"
    })
    const mine = guest.client(host.id, "mine", Numbers)
    assert.strictEqual(await mine.WhoAmI(), "handled")
    assert.strictEqual(tagOf(await failureOf(mine.Half({ n: 2 }))), "CallRefused")
    await closeAll(guest, host)
  })

  it("sends tensors beside its calls", async () => {
    const { host, guest, numbers } = await meet()
    const { ref, taken } = await guest.putTensor(
      Float32Array.from({ length: 1_000_000 }, () => 0.5),
      host.id
    )
    assert.strictEqual(await numbers.Sum({ numbers: ref }), 500_000)
    await taken
    await closeAll(guest, host)
  })

  it("keeps who it is and whom it knows in its home", async () => {
    const home = await mkdtemp(join(tmpdir(), "artifice-promise-"))
    try {
      const { host, guest } = await meet()
      const { token } = await host.invite()
      const first = await startPeer({ home })
      await first.join(token)
      await first.close()
      const second = await startPeer({ home })
      assert.strictEqual(second.id, first.id)
      const numbers = second.client(host.id, "numbers", Numbers)
      assert.strictEqual(await numbers.WhoAmI(), second.id)
      await closeAll(second, guest, host)
    } finally {
      await rm(home, { recursive: true, force: true })
    }
  })

  it("keeps its home under a passphrase, and opens it by no other and only once", async () => {
    const home = await mkdtemp(join(tmpdir(), "artifice-promise-"))
    try {
      const first = await startPeer({ home, passphrase: "correct horse" })
      assert.match(String(await failureOf(startPeer({ home, passphrase: "correct horse" }))), /has it open/)
      await first.close()
      for (const other of [{ home }, { home, passphrase: "wrong horse" }])
        assert.strictEqual(tagOf(await failureOf(startPeer(other))), "StoreError")
      const second = await startPeer({ home, passphrase: "correct horse" })
      assert.strictEqual(second.id, first.id)
      await second.close()
    } finally {
      await rm(home, { recursive: true, force: true })
    }
  })

  it("refuses an address that is none, and tells why it cannot listen", async () => {
    assert.instanceOf(await failureOf(startPeer({ listen: "nonsense" })), TypeError)
    const host = await startPeer({ listen: loopback })
    assert.strictEqual(tagOf(await failureOf(startPeer({ listen: host.address ?? "" }))), "SessionError")
    await host.close()
  })

  it("runs a training job with a worker", async () => {
    const job = "test/fixtures/jobs/clouds.ts"
    const host = await startPeer({ listen: loopback })
    const guest = await startPeer()
    const events: Array<JobEvent> = []
    const { token } = await host.invite()
    const set = [["epochs", "1"]] as const
    const [finished, { steps }] = await Promise.all([
      host.coordinate({ job, set, onEvent: event => events.push(event) }),
      guest.work({ job, coordinator: { token } })
    ])
    assert.strictEqual(finished.event, "finished")
    assert.isAbove(steps, 0)
    assert.includeMembers(
      events.map(({ event }) => event),
      ["member-joined", "view", "step", "epoch", "finished"]
    )
    await closeAll(guest, host)
  })
})

const noHandlers = {
  Half: () => 0,
  Count: async function* () {},
  WhoAmI: () => "handled",
  Wait: () => undefined,
  Sum: () => 0
}
