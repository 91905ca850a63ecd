import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { TestClock } from "effect/testing"
import {
  DialFailures,
  dialAddresses,
  dialError,
  dialStaggerMs,
  maxDialAttempts,
  type DialFailure
} from "../../src/node/Dialling.ts"
import { formatAddress, Network, NetworkError, parseAddress, type Address } from "../../src/transport/Network.ts"
import * as NetworkTcp from "../../src/transport/NetworkTcp.ts"
import { isPeerId } from "../../src/protocol/Identity.ts"
import { Cryptography } from "../../src/transport/Cryptography.ts"
import { SessionError } from "../../src/transport/SessionError.ts"
import { toHex, utf8 } from "../../src/protocol/Bytes.ts"
import { PeerStore } from "../../src/store/PeerStore.ts"
import type { Session } from "../../src/transport/Session.ts"
import { addressOf, keptStore, loopback, pair, startNode, until } from "../support/nodes.ts"
import { silentAddress } from "../support/silentAddress.ts"
import { alice, bob } from "../support/vectors.ts"

const unreachable = new SessionError({ code: "UNREACHABLE", detail: "nobody is there" })

/** A dial whose attempts end when the test says so; tells when each was begun, and which were interrupted. */
const makeDial = Effect.gen(function* () {
  const clock = yield* Clock.Clock
  const begun: Array<readonly [address: string, atMs: number]> = []
  const interrupted: Array<string> = []
  const results = new Map<string, Deferred.Deferred<string, SessionError>>()
  const names = new Map<string, Deferred.Deferred<ReadonlyArray<string>, NetworkError>>()
  const resultOf = (text: string) => {
    const known = results.get(text) ?? Deferred.makeUnsafe<string, SessionError>()
    results.set(text, known)
    return known
  }
  const nameOf = (host: string) => {
    const known = names.get(host) ?? Deferred.makeUnsafe<ReadonlyArray<string>, NetworkError>()
    names.set(host, known)
    return known
  }
  const dial = (...addresses: ReadonlyArray<string>) =>
    dialAddresses({
      addresses,
      resolve: host => Deferred.await(nameOf(host)),
      attempt: (address: Address, proceed) =>
        Effect.gen(function* () {
          const text = formatAddress(address)
          begun.push([text, clock.currentTimeMillisUnsafe()])
          const session = yield* Deferred.await(resultOf(text))
          if (!proceed()) return yield* new SessionError({ code: "SUPERSEDED", detail: "late" })
          return session
        }).pipe(Effect.onInterrupt(() => Effect.sync(() => interrupted.push(formatAddress(address)))))
    })
  return {
    dial,
    begun,
    interrupted,
    answers: (text: string) => Deferred.succeed(resultOf(text), `by ${text}`),
    fails: (text: string) => Deferred.fail(resultOf(text), unreachable),
    finds: (host: string, ...addresses: ReadonlyArray<string>) => Deferred.succeed(nameOf(host), addresses)
  }
})

const [one, two, three] = ["192.0.2.1:7", "192.0.2.2:7", "192.0.2.3:7"] as const
const [six, seven] = ["[2001:db8::6]:7", "[2001:db8::7]:7"] as const

describe("A dial of several addresses", () => {
  it.effect("gives each 250 ms before it begins the next one beside it, and takes the first that answers", () =>
    Effect.gen(function* () {
      const { dial, begun, answers, interrupted } = yield* makeDial
      const fiber = yield* Effect.forkChild(dial(one, two, three))
      yield* TestClock.adjust(dialStaggerMs - 1)
      assert.deepStrictEqual(begun, [[one, 0]])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(begun.slice(1), [[two, 250]])
      yield* TestClock.adjust(100)
      yield* answers(one)
      const { session, address, failures } = yield* Fiber.join(fiber)
      assert.deepStrictEqual({ session, address, failures }, { session: `by ${one}`, address: one, failures: [] })
      assert.deepStrictEqual(interrupted, [two])
      yield* TestClock.adjust(1_000)
      assert.lengthOf(begun, 2)
    })
  )

  it.effect("begins the next one at once when one fails", () =>
    Effect.gen(function* () {
      const { dial, begun, fails, answers } = yield* makeDial
      const fiber = yield* Effect.forkChild(dial(one, two, three))
      yield* TestClock.adjust(40)
      yield* fails(one)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(begun, [
        [one, 0],
        [two, 40]
      ])
      yield* TestClock.adjust(dialStaggerMs)
      yield* answers(three)
      const { address, failures } = yield* Fiber.join(fiber)
      assert.strictEqual(address, three)
      assert.deepStrictEqual(failures, [{ address: one, code: "UNREACHABLE", detail: "nobody is there", atMs: 40 }])
    })
  )

  it.effect("alternates between IPv6 and IPv4, beginning with the family of the address that is known to be best", () =>
    Effect.gen(function* () {
      for (const [given, tried] of [
        [
          [one, two, three, six, seven],
          [one, six, two, seven, three]
        ],
        [
          [six, seven, one],
          [six, one, seven]
        ]
      ] as const) {
        const { dial, begun, fails } = yield* makeDial
        for (const address of given) yield* fails(address)
        yield* Effect.exit(dial(...given))
        assert.deepStrictEqual(
          begun.map(([address]) => address),
          [...tried]
        )
      }
    })
  )

  it.effect("looks names up while it dials, and dials each of their addresses once", () =>
    Effect.gen(function* () {
      const { dial, begun, finds, answers } = yield* makeDial
      const fiber = yield* Effect.forkChild(dial("host.example:7", one))
      yield* TestClock.adjust(10)
      assert.deepStrictEqual(begun, [[one, 0]])
      yield* finds("host.example", "2001:db8::6", "192.0.2.1", "192.0.2.2")
      yield* TestClock.adjust(2 * dialStaggerMs)
      yield* answers(two)
      assert.strictEqual((yield* Fiber.join(fiber)).address, two)
      // The stagger holds for what a name brings as well.
      assert.deepStrictEqual(begun, [
        [one, 0],
        [six, 250],
        [two, 500]
      ])
    })
  )

  it.effect("tells the other address to give up where two answer in the same moment", () =>
    Effect.gen(function* () {
      const { dial, answers } = yield* makeDial
      const fiber = yield* Effect.forkChild(dial(one, two))
      yield* TestClock.adjust(dialStaggerMs)
      yield* answers(two)
      yield* answers(one)
      const { address, failures } = yield* Fiber.join(fiber)
      assert.deepStrictEqual([address, failures], [two, []])
    })
  )

  it.effect("fails with a reason for each when none is left, and never tries more than sixteen", () =>
    Effect.gen(function* () {
      const { dial, begun, fails, finds } = yield* makeDial
      const many = Array.from({ length: maxDialAttempts + 10 }, (_, index) => `198.51.100.${index}`)
      for (const host of many) yield* fails(`${host}:7`)
      yield* finds("many.example", ...many)
      const reasons = yield* Effect.flip(dial("no address", "many.example:7"))
      assert.lengthOf(begun, maxDialAttempts)
      assert.lengthOf(reasons, maxDialAttempts + 1)
      assert.deepStrictEqual(yield* Effect.flip(dial()), [])
    })
  )
})

describe("The error of a failed dial", () => {
  it("names every address, and is a refusal where one was among them", () => {
    const failure = (address: string, code: string): DialFailure => ({ address, code, detail: `of ${code}`, atMs: 0 })
    const error = dialError([failure(one, "UNREACHABLE"), failure(two, "TRUNCATED")], alice.peerId)
    assert.strictEqual(error.code, "TRUNCATED")
    assert.strictEqual(error.detail, `${one}: of UNREACHABLE; ${two}: of TRUNCATED`)
    // Silence may be anybody's; a code that the peer itself has given is not.
    const refused = dialError([failure(one, "TRUNCATED"), failure(two, "INVITE_USED")], alice.peerId)
    assert.strictEqual(refused.code, "INVITE_USED")
    assert.strictEqual(dialError([], alice.peerId).detail, "no address of this peer is known")
  })
})

describe("What is remembered of failed dials", () => {
  const failure = (address: string, atMs: number): DialFailure => ({ address, code: "UNREACHABLE", detail: "-", atMs })

  it("is the last reason of each address, until it gives a session", () => {
    const failures = new DialFailures()
    failures.record(alice.peerId, [failure(one, 1), failure(two, 2)])
    failures.record(alice.peerId, [failure(one, 3)])
    failures.record(bob.peerId, [failure(three, 4)])
    assert.deepStrictEqual(failures.of(alice.peerId), [failure(two, 2), failure(one, 3)])
    failures.forget(alice.peerId, two)
    assert.deepStrictEqual(failures.of(alice.peerId), [failure(one, 3)])
    assert.deepStrictEqual(failures.of(bob.peerId), [failure(three, 4)])
  })

  it("is bounded: sixteen addresses of a peer, 256 peers", () => {
    const failures = new DialFailures()
    for (let n = 0; n < 20; n++) failures.record(alice.peerId, [failure(`192.0.2.${n}:7`, n)])
    assert.deepStrictEqual(
      failures.of(alice.peerId).map(({ atMs }) => atMs),
      Array.from({ length: maxDialAttempts }, (_, index) => index + 4)
    )
    const peers = Array.from({ length: 256 }, (_, n) => alice.peerId.slice(8) + n.toString(16).padStart(8, "0"))
    for (const peer of peers.filter(isPeerId)) failures.record(peer, [failure(one, 1)])
    assert.lengthOf(failures.of(alice.peerId), 0)
    assert.lengthOf(
      peers.filter(isPeerId).filter(peer => failures.of(peer).length === 1),
      256
    )
  })
})

/** A port of loopback that was just given back: nobody listens there. */
const refusingAddress = Effect.scoped(
  Effect.flatMap(Network, network =>
    Effect.map(
      network.listen(loopback, () => undefined),
      formatAddress
    )
  )
).pipe(Effect.provide(NetworkTcp.layer))

/** Private keys whose use ends for two handshakes in the same moment. */
const inPairs = Layer.effect(
  Cryptography,
  Effect.map(Cryptography, crypto => {
    const held: Array<() => void> = []
    return Cryptography.of({
      ...crypto,
      unwrap: async (identity, ciphertext) => {
        const secret = await crypto.unwrap(identity, ciphertext)
        await new Promise<void>(resolve => {
          held.push(resolve)
          if (held.length === 2) for (const release of held.splice(0)) release()
        })
        return secret
      }
    })
  })
).pipe(Layer.provide(Cryptography.layer))

const markOf = (session: Session | undefined): string | undefined =>
  session === undefined || session.ended !== undefined ? undefined : toHex(session.exportKey("test", utf8("which")))

describe("A peer with several addresses", () => {
  it.live(
    "is reached by the one that works, past one that refuses and one that never answers; the reasons are kept",
    () =>
      Effect.gen(function* () {
        const host = yield* startNode({ identity: alice, listen: loopback })
        const guest = yield* startNode({ identity: bob })
        yield* pair(host, guest)
        yield* (yield* guest.connect(alice.peerId)).close()
        yield* until(() => (guest.session(alice.peerId) === undefined ? true : undefined))
        const [refusing, silent] = [yield* refusingAddress, yield* silentAddress]
        const session = yield* guest.connect(alice.peerId, ["nobody.invalid:7", refusing, silent, addressOf(host)])
        assert.strictEqual(formatAddress(session.remote), addressOf(host))
        const failures = new Map(guest.dialFailures(alice.peerId).map(({ address, detail }) => [address, detail]))
        assert.match(failures.get(refusing) ?? "", /ECONNREFUSED/)
        assert.match(failures.get("nobody.invalid:7") ?? "", /cannot look up nobody\.invalid/)
        // It has not failed: it was called off.
        assert.isFalse(failures.has(silent))
        assert.deepStrictEqual(guest.dialFailures(bob.peerId), [])
      })
  )

  it.live("is remembered to have failed at an address until it answers there", () =>
    Effect.gen(function* () {
      const store = keptStore()
      const guest = yield* startNode({ identity: bob })
      const hosting = yield* Scope.make()
      const host = yield* Scope.provide(startNode({ identity: alice, listen: loopback }, store.layer), hosting)
      yield* pair(host, guest)
      const address = addressOf(host)
      yield* Scope.close(hosting, Exit.void)
      yield* Effect.flip(guest.connect(alice.peerId))
      assert.deepStrictEqual(
        guest.dialFailures(alice.peerId).map(({ address, code }) => [address, code]),
        [[address, "UNREACHABLE"]]
      )
      const listen = parseAddress(address) ?? assert.fail(address)
      yield* startNode({ identity: alice, listen }, store.layer)
      yield* guest.connect(alice.peerId)
      assert.deepStrictEqual(guest.dialFailures(alice.peerId), [])
    })
  )

  it.live("gets one session where two of its addresses answer in the same moment, and keeps it", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: { host: "::", port: 0 } })
      const port = host.address?.port ?? 0
      const addresses = [`[::1]:${port}`, `127.0.0.1:${port}`]
      const guest = yield* startNode({ identity: bob }, PeerStore.memory, inPairs)
      const { token } = yield* host.invite({ name: "pair", addresses })
      yield* guest.join(token)
      for (let round = 0; round < 5; round++) {
        const mark = yield* until(() => {
          const [ours, theirs] = [markOf(guest.session(alice.peerId)), markOf(host.session(bob.peerId))]
          return ours !== undefined && ours === theirs ? ours : undefined
        })
        // Whatever the other connection still does, it does now: a round trip through the one that is kept.
        const session = yield* guest.connect(alice.peerId)
        assert.strictEqual(markOf(session), mark)
        yield* session.close()
        yield* until(() => (host.session(bob.peerId) === undefined ? true : undefined))
        assert.strictEqual((yield* Deferred.await(session.closed)).code, "NORMAL")
        yield* guest.connect(alice.peerId, addresses)
      }
    })
  )
})
