import { assert, describe, it } from "vitest"
import { SllpClosed, SllpRefused, startPeer, type Sllp } from "../../src/promise.ts"

describe("SLLP without Effect", () => {
  it("sends and iterates, and rejects with the reason when it is over", async () => {
    await using host = await startPeer({ listen: "127.0.0.1:0" })
    await using guest = await startPeer()
    const hostId = await guest.join((await host.invite()).token)
    const served = Promise.withResolvers<Sllp>()
    const stop = await host.serveSllp("echo", async sllp => {
      served.resolve(sllp)
      for await (const message of sllp.messages(0)) if (message.complete) await sllp.send(0, message.bytes)
    })

    const sllp = await guest.openSllp(hostId, "echo", { channels: [{ mode: "reliable", maxMessageBytes: 1_000 }] })
    assert.strictEqual(sllp.peer, hostId)
    await sllp.send(0, [Uint8Array.of(1, 2), Uint8Array.of(3)])
    await sllp.flush()
    for await (const message of sllp.messages(0)) {
      assert.deepStrictEqual(message.complete && [...message.bytes], [1, 2, 3])
      break
    }
    assert.strictEqual(sllp.statistics().deliveredMessages, 1)
    const refused = await sllp.send(0, new Uint8Array(1_001)).catch((error: unknown) => error)
    assert.instanceOf(refused, SllpRefused)

    sllp.close("app", "that was all")
    const { closed } = await served.promise
    assert.deepInclude(await closed, { code: "app", by: "peer", reason: "that was all" })
    assert.instanceOf(await sllp.send(0, Uint8Array.of(1)).catch((error: unknown) => error), SllpClosed)
    await stop()
    const gone = await guest
      .openSllp(hostId, "echo", { channels: [{ mode: "latest" }] })
      .catch((error: unknown) => error)
    assert.include(String(gone), `nobody serves the association "echo" here`)
  })
})
