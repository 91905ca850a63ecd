import { createHmac } from "node:crypto"
import { assert, describe, it } from "vitest"
import { BeaconHints, encodeBeacon, openBeacon } from "../../src/protocol/Beacon.ts"
import { fromHex, toHex } from "../../src/protocol/Bytes.ts"
import { beaconRetryMs, maxBeaconAddresses, maxBeaconsPerSecond } from "../../src/protocol/constants.ts"
import { flipped } from "../support/protocolHandshake.ts"

const key = fromHex("07".repeat(32))
const nonce = fromHex("00112233445566778899aabbccddeeff")
const port = 7_000
/** The middle of a minute. */
const now = 1_800_000_030
const datagram = encodeBeacon(key, { nonce, port }, now)

describe("A beacon (§2.8)", () => {
  it("is `ARTB`, version, nonce, port and sixteen bytes of an HMAC over these and the minute", () => {
    const covered = Buffer.concat([Buffer.from("ARTB"), Buffer.of(1), nonce, Buffer.of(0x1b, 0x58)])
    const epoch = Buffer.alloc(8)
    epoch.writeBigUInt64BE(30_000_000n)
    const mac = createHmac("sha256", key).update(covered).update(epoch).digest().subarray(0, 16)
    assert.strictEqual(toHex(datagram), toHex(Buffer.concat([covered, mac])))
    assert.lengthOf(datagram, 39)
  })

  it("names a port to whoever has the key, in its minute and the ones beside it", () => {
    for (const [atSeconds, isHeard] of [
      [now - 91, false],
      [now - 90, true],
      [now, true],
      [now + 89, true],
      [now + 90, false]
    ] as const)
      assert.deepStrictEqual(openBeacon(key, datagram, atSeconds), isHeard ? { nonce, port } : undefined)
  })

  it("means nothing under another key, with any bit changed, cut short or with more behind it", () => {
    assert.isUndefined(openBeacon(fromHex("08".repeat(32)), datagram, now))
    for (let bit = 0; bit < datagram.length * 8; bit++) assert.isUndefined(openBeacon(key, flipped(datagram, bit), now))
    for (let length = 0; length < datagram.length; length++)
      assert.isUndefined(openBeacon(key, datagram.subarray(0, length), now))
    assert.isUndefined(openBeacon(key, Buffer.concat([datagram, Buffer.of(0)]), now))
  })

  it("cannot name port 0, nor be older than time", () => {
    assert.isUndefined(openBeacon(key, encodeBeacon(key, { nonce, port: 0 }, now), now))
    assert.deepStrictEqual(openBeacon(key, encodeBeacon(key, { nonce, port: 65_535 }, 0), 0)?.port, 65_535)
  })
})

describe("Hints", () => {
  it("to one address are followed once a minute", () => {
    const hints = new BeaconHints()
    const followed = [0, 5_000, beaconRetryMs - 1, beaconRetryMs, beaconRetryMs + 1].filter(ms => hints.take("a:1", ms))
    assert.deepStrictEqual(followed, [0, beaconRetryMs])
    assert.isTrue(hints.take("b:1", 1))
  })

  it("are followed ten times a second at most", () => {
    const hints = new BeaconHints()
    const followed = Array.from({ length: 100 }, (_, n) => n * 25).filter(ms => hints.take(`host-${ms}:1`, ms))
    for (const from of followed)
      assert.isAtMost(followed.filter(ms => ms >= from && ms < from + 1_000).length, maxBeaconsPerSecond)
    assert.isAbove(followed.length, 2 * maxBeaconsPerSecond)
  })

  it("are remembered of 256 addresses, so that a flood makes no more than its own be dialled again", () => {
    const hints = new BeaconHints()
    for (let n = 0; n <= maxBeaconAddresses; n++) assert.isTrue(hints.take(`host-${n}:1`, n * 100))
    const nowMs = (maxBeaconAddresses + 10) * 100
    assert.isTrue(nowMs < beaconRetryMs)
    assert.isFalse(hints.take("host-1:1", nowMs))
    assert.isTrue(hints.take("host-0:1", nowMs))
  })
})
