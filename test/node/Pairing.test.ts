import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer } from "effect"
import { TestClock } from "effect/testing"
import type { Guest } from "../../src/node/Pairing.ts"
import { fromHex } from "../../src/protocol/Bytes.ts"
import { modes } from "../../src/protocol/HandshakeMessages.ts"
import { fingerprint } from "../../src/protocol/Identity.ts"
import { decodeInvite, encodeInvite, inviteFlags, inviteKeys } from "../../src/protocol/Invite.ts"
import { PeerStore } from "../../src/store/PeerStore.ts"
import { addressOf, keptStore, loopback, RawPeer, startNode, until } from "../support/nodes.ts"
import { mortalPeer } from "../support/crashes.ts"
import { mallory } from "../support/protocolHandshake.ts"
import { alice, bob } from "../support/vectors.ts"

const carol = mallory

describe("14 a token", () => {
  const claimed = Effect.gen(function* () {
    const store = keptStore()
    const host = yield* startNode({ identity: alice, listen: loopback }, store.layer)
    const { token } = yield* host.invite({ name: "one" })
    const { peerId, secret } = decodeInvite(token)
    const target = { mode: modes.invite, keys: inviteKeys(secret, fromHex(peerId)), peerId } as const
    // Bob goes as far as the claim, and breaks off before the pair key is agreed upon.
    const broken = yield* Effect.promise(() => RawPeer.dial(addressOf(host), bob, target))
    broken.socket.destroy()
    return { host, token, store }
  })

  it.live("that one identity has claimed is refused to every other, who is told so, and still pairs the first", () =>
    Effect.gen(function* () {
      const { host, token, store } = yield* claimed
      const claims = store.state.invites.map(({ claimedBy }) => Buffer.from(claimedBy ?? []).toString("hex"))
      assert.deepStrictEqual(claims, [Buffer.from(bob.document).toString("hex")])
      const other = yield* startNode({ identity: carol })
      assert.strictEqual((yield* Effect.flip(other.join(token))).code, "INVITE_USED")
      assert.lengthOf(store.state.peers, 0)

      const first = yield* startNode({ identity: bob })
      assert.strictEqual((yield* first.join(token)).peer.peerId, alice.peerId)
      assert.isDefined(host.session(bob.peerId))
      assert.deepStrictEqual(
        store.state.peers.map(({ peerId }) => peerId),
        [bob.peerId]
      )
    })
  )

  it.live("that has paired its guest is used up, for everybody, and says so", () =>
    Effect.gen(function* () {
      const { token, store } = yield* claimed
      yield* (yield* startNode({ identity: bob })).join(token)
      const stolen = yield* Effect.flip((yield* startNode({ identity: carol })).join(token))
      assert.deepStrictEqual(
        [stolen.code, stolen.detail],
        ["INVITE_USED", "the token has been used: it pairs one machine, once. Ask for a new one"]
      )
      // Even for its guest, once that has lost what it knew.
      const forgetful = yield* Effect.flip((yield* startNode({ identity: bob })).join(token))
      assert.strictEqual(forgetful.code, "INVITE_USED")
      assert.lengthOf(store.state.peers, 1)
    })
  )

  it.live("that has run out is refused by the guest itself, and by the host's clock whatever it says of itself", () =>
    Effect.gen(function* () {
      const store = keptStore()
      const host = yield* startNode({ identity: alice, listen: loopback }, store.layer)
      const { token, expiresAt } = yield* host.invite({ name: "short", ttlMs: 0 })
      const guest = yield* startNode({ identity: bob })
      const late = yield* Effect.flip(guest.join(token))
      assert.deepStrictEqual(
        [late.code, late.detail],
        ["INVITE_EXPIRED", `the token ran out at ${new Date(expiresAt * 1000).toISOString()}: ask for a new one`]
      )
      const forged = encodeInvite({ ...decodeInvite(token), expiresAt: expiresAt + 3_600 })
      const told = yield* Effect.flip(guest.join(forged))
      assert.strictEqual(told.code, "INVITE_EXPIRED")
      assert.match(told.detail, /by the inviting machine's clock/)
      assert.lengthOf(store.state.peers, 0)
    })
  )

  it.live(
    "that leads to another machine than the one that made it meets silence, and the guest says what that means",
    () =>
      Effect.gen(function* () {
        const host = yield* startNode({ identity: alice, listen: loopback })
        const another = yield* startNode({ identity: carol, listen: loopback })
        const { token } = yield* host.invite({ name: "moved", addresses: [addressOf(another)] })
        const guest = yield* startNode({ identity: bob })
        const error = yield* Effect.flip(guest.join(token))
        assert.strictEqual(error.code, "TRUNCATED")
        assert.include(error.detail, `whoever answers at ${addressOf(another)} hung up without a word`)
        assert.include(error.detail, "another machine than the one that made this token")
      })
  )

  it.live("whose secret another machine holds does not make that machine the one that the guest is paired with", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const { token } = yield* host.invite({ name: "mine" })
      const { peerId: _, ...rest } = decodeInvite(token)
      const guest = yield* startNode({ identity: bob })
      // The keys of a token are bound to the PeerID in it: with another one they are other keys.
      const bent = encodeInvite({ ...rest, peerId: carol.peerId })
      assert.strictEqual((yield* Effect.flip(guest.join(bent))).code, "TRUNCATED")
    })
  )

  it.live("that was altered in copying, or is none, is refused before anything is dialled", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const { token } = yield* host.invite({ name: "copied" })
      const guest = yield* startNode({ identity: bob })
      const middle = token.length >> 1
      const swapped = token.slice(0, middle) + (token[middle] === "A" ? "B" : "A") + token.slice(middle + 1)
      const sentences = []
      for (const wrong of [swapped, token.slice(0, -7), `x${token}`, "artf1."]) {
        const error = yield* Effect.flip(guest.join(wrong))
        assert.strictEqual(error.code, "MALFORMED")
        sentences.push(error.detail)
      }
      assert.deepStrictEqual(sentences, [
        "the token was damaged: copy it again",
        "the token was damaged: copy it again",
        "the token does not begin with artf1.",
        "the token is not whole: copy it again"
      ])
    })
  )

  it.live("that no guest could read is not made", () =>
    Effect.gen(function* () {
      const store = keptStore()
      const host = yield* startNode({ identity: alice, listen: loopback }, store.layer)
      const long = yield* Effect.flip(host.invite({ name: "x".repeat(65) }))
      assert.match(long.message, /name of at most 64 characters/)
      const many = yield* Effect.flip(host.invite({ name: "", addresses: Array.from({ length: 17 }, () => "host:1") }))
      assert.match(many.message, /list of at most 16 addresses/)
      assert.lengthOf(store.state.invites, 0)
    })
  )

  it.live("of this very machine is refused with a sentence that says so", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const { token } = yield* host.invite({ name: "self" })
      const error = yield* Effect.flip(host.join(token))
      assert.match(error.message, /WRONG_PEER.*made by this very machine/)
    })
  )
})

describe("An invitation that asks for confirmation", () => {
  it.live("says so in its token, shows the host's operator the guest's fingerprint, and pairs when he accepts", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const asked: Array<Guest> = []
      const confirm = (guest: Guest) => Effect.sync(() => asked.push(guest) === 1)
      const { token } = yield* host.invite({ name: "careful", confirm })
      assert.strictEqual(decodeInvite(token).flags, inviteFlags.confirm)
      const guest = yield* startNode({ identity: bob })
      const session = yield* guest.join(token)
      assert.strictEqual(session.peer.peerId, alice.peerId)
      assert.deepStrictEqual(asked, [{ peerId: bob.peerId, fingerprint: fingerprint(bob.id) }])
      assert.match(fingerprint(bob.id), /^([A-Z2-7]{4}-){3}[A-Z2-7]{4}$/)
    })
  )

  it.live(
    "stores nothing before he has accepted, and nothing when he does not: the guest is told, the token is used up",
    () =>
      Effect.gen(function* () {
        const [store, guestStore] = [keptStore(), keptStore()]
        const host = yield* startNode({ identity: alice, listen: loopback }, store.layer)
        const asked = yield* Deferred.make<Guest>()
        const decision = yield* Deferred.make<boolean>()
        const confirm = (guest: Guest) => Effect.andThen(Deferred.succeed(asked, guest), Deferred.await(decision))
        const { token } = yield* host.invite({ name: "careful", confirm })
        const guest = yield* startNode({ identity: bob }, guestStore.layer)
        const joining = yield* Effect.forkChild(Effect.flip(guest.join(token)))
        yield* Deferred.await(asked)
        assert.lengthOf(store.state.peers, 0)
        yield* Deferred.succeed(decision, false)
        const error = yield* Fiber.join(joining)
        assert.match(error.message, /NOT_AUTHORIZED.*did not confirm your fingerprint/)
        assert.deepStrictEqual([store.state.peers, guestStore.state.peers], [[], []])
        assert.strictEqual((yield* Effect.flip(guest.join(token))).code, "INVITE_USED")
      })
  )

  it.effect("waits two minutes for him, and then the token is as good as before", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      let times = 0
      const asked = yield* Deferred.make<void>()
      const confirm = () =>
        ++times === 1 ? Effect.andThen(Deferred.succeed(asked, undefined), Effect.never) : Effect.succeed(true)
      const { token } = yield* host.invite({ name: "careful", ttlMs: 3_600_000, confirm })
      const guest = yield* startNode({ identity: bob })
      const joining = yield* Effect.forkChild(Effect.flip(guest.join(token)))
      yield* Deferred.await(asked)
      yield* TestClock.adjust("119 seconds")
      assert.isUndefined(joining.pollUnsafe())
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(joining)
      assert.match(error.message, /TIMEOUT.*nobody confirmed within 120 s/)
      assert.strictEqual((yield* guest.join(token)).peer.peerId, alice.peerId)
    })
  )

  it.live("is asked for by the host's own copy, not by what the token says", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const { token } = yield* host.invite({ name: "careful", confirm: () => Effect.succeed(false) })
      const guest = yield* startNode({ identity: bob })
      const stripped = encodeInvite({ ...decodeInvite(token), flags: 0 })
      assert.match((yield* Effect.flip(guest.join(stripped))).message, /did not confirm/)
    })
  )

  it.live(
    "of a process that has ended is decided by the next one's operator; without one the guest is turned away",
    () =>
      Effect.gen(function* () {
        const accepts: Array<Guest> = []
        const peer = mortalPeer({ identity: alice, listen: loopback })
        const first = yield* peer.start
        const { token } = yield* first.invite({ name: "careful", confirm: () => Effect.succeed(true) })
        const guest = yield* startNode({ identity: bob })
        yield* peer.start
        assert.match((yield* Effect.flip(guest.join(token))).message, /NOT_AUTHORIZED.*nobody is here to confirm/)
        yield* peer.stop
        const confirm = (guest: Guest) => Effect.sync(() => accepts.push(guest) > 0)
        const { state } = peer
        const kept = Layer.succeed(PeerStore, { load: Effect.succeed(state), apply: () => Effect.void })
        const heir = yield* startNode({ identity: alice, listen: loopback, confirm }, kept)
        const { addresses: _, ...rest } = decodeInvite(token)
        yield* guest.join(encodeInvite({ ...rest, addresses: [addressOf(heir)] }))
        assert.lengthOf(accepts, 1)
      })
  )

  it.live("asks anew when its guest comes again, and lets the older attempt go", () =>
    Effect.gen(function* () {
      const host = yield* startNode({ identity: alice, listen: loopback })
      const asked: Array<Deferred.Deferred<boolean>> = []
      const confirm = () =>
        Effect.gen(function* () {
          const answer = yield* Deferred.make<boolean>()
          asked.push(answer)
          return yield* Deferred.await(answer)
        })
      const { token } = yield* host.invite({ name: "careful", confirm })
      const one = yield* startNode({ identity: bob })
      const joining = yield* Effect.forkChild(Effect.flip(one.join(token)))
      yield* until(() => asked[0])
      const again = yield* startNode({ identity: bob })
      const second = yield* Effect.forkChild(again.join(token))
      const answer = yield* until(() => asked[1])
      assert.strictEqual((yield* Fiber.join(joining)).code, "SUPERSEDED")
      yield* Deferred.succeed(answer, true)
      assert.strictEqual((yield* Fiber.join(second)).peer.peerId, alice.peerId)
    })
  )
})
