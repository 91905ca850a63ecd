import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { makeDialer } from "../../src/node/Dialer.ts"
import { maxDialBackoffMs } from "../../src/protocol/constants.ts"
import { SessionError } from "../../src/transport/SessionError.ts"
import { alice } from "../support/vectors.ts"

const unreachable = new SessionError({ code: "UNREACHABLE", detail: "nobody is there" })

/** A dialer of a peer that is never there; tells to which addresses it was dialled. */
const inVain = Effect.gen(function* () {
  const dialled: Array<ReadonlyArray<string> | undefined> = []
  const dialer = yield* makeDialer(
    () => undefined,
    (_, addresses) =>
      Effect.suspend(() => {
        dialled.push(addresses)
        return Effect.fail(unreachable)
      })
  )
  return { ...dialer, dialled }
})

describe("A peer that is away", () => {
  it.effect("is not dialled for a while by those who come again by themselves, and at once by those who ask", () =>
    Effect.gen(function* () {
      const { reach, connect, dialled } = yield* inVain
      yield* Effect.flip(reach(alice.peerId))
      const held = yield* Effect.flip(reach(alice.peerId))
      assert.match(held.detail, /not dialled again for \d+ ms/)
      assert.lengthOf(dialled, 1)
      yield* Effect.flip(connect(alice.peerId))
      assert.lengthOf(dialled, 2)
      yield* TestClock.adjust(maxDialBackoffMs)
      yield* Effect.flip(reach(alice.peerId))
      assert.lengthOf(dialled, 3)
    })
  )

  it.effect("is not taken for away because somebody else answers at an address that might have been its own", () =>
    Effect.gen(function* () {
      const { reach, tryAddress, dialled } = yield* inVain
      yield* Effect.flip(tryAddress(alice.peerId, "192.0.2.1:7"))
      yield* Effect.flip(reach(alice.peerId))
      assert.deepStrictEqual(dialled, [["192.0.2.1:7"], undefined])
    })
  )
})
