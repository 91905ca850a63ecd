import { describe, expect, it } from "vitest"
import { u64 } from "../../src/protocol/Bytes.ts"
import { CookieJar } from "../../src/protocol/CookieJar.ts"
import { derivePairKeys, tagEpoch, tagFor } from "../../src/protocol/KeySchedule.ts"
import { ReplayCache } from "../../src/protocol/ReplayCache.ts"
import { TagIndex, type DirectoryEntry } from "../../src/protocol/TagIndex.ts"
import { aliceEntry, hours, keys, now, real } from "../support/protocolHandshake.ts"
import { alice, bob } from "../support/vectors.ts"

const entryOf = (name: string): DirectoryEntry => ({
  ...aliceEntry,
  name,
  keys: derivePairKeys(Buffer.from(name.padEnd(32)), alice.id, bob.id)
})
const tagAt = (entry: DirectoryEntry, seconds: number) => tagFor(entry.keys.tag, tagEpoch(seconds))

describe("the index of tags", () => {
  it("finds a pair by the tags of the hour before, this one and the next, and by no other", () => {
    const index = new TagIndex()
    index.set(aliceEntry)
    const found = [-2, -1, 0, 1, 2].map(hour => index.lookup(tagAt(aliceEntry, now + hours(hour)), now)?.name)
    expect(found).toEqual([undefined, "alice", "alice", "alice", undefined])
  })

  it("rolls on with the clock, also over a gap, and forgets what it no longer needs", () => {
    const index = new TagIndex()
    index.set(aliceEntry)
    for (const at of [now, now + hours(1), now + hours(2), now + hours(50), now + hours(3)]) {
      expect(index.lookup(tagAt(aliceEntry, at), at)?.name).toBe("alice")
      expect(index.lookup(tagAt(aliceEntry, at - hours(2)), at)).toBeUndefined()
    }
  })

  it("computes the next hour in slices, and takes entries that come and go meanwhile into account", () => {
    const index = new TagIndex()
    const entries = Array.from({ length: 20 }, (_, at) => entryOf(`peer ${at}`))
    for (const entry of entries) index.set(entry)
    index.lookup(tagAt(aliceEntry, now), now)
    expect(index.prepare(now, 7)).toBe(false)
    index.delete("peer 19")
    index.delete("peer 0")
    index.set(aliceEntry)
    const replaced = { ...entryOf("peer 5"), minimumSuite: 2 }
    index.set(replaced)
    expect(index.prepare(now, 7)).toBe(false)
    expect(index.prepare(now, 100)).toBe(true)
    const later = now + hours(1)
    const ahead = later + hours(1)
    expect(index.lookup(tagAt(entryOf("peer 7"), ahead), later)?.name).toBe("peer 7")
    expect(index.lookup(tagAt(entryOf("peer 0"), ahead), later)).toBeUndefined()
    expect(index.lookup(tagAt(entryOf("peer 19"), ahead), later)).toBeUndefined()
    expect(index.lookup(tagAt(aliceEntry, ahead), later)).toBe(aliceEntry)
    expect(index.lookup(tagAt(replaced, ahead), later)).toBe(replaced)
    expect(index.size).toBe(19)
  })

  it("computes the first tags in slices too, so that a host of many peers answers at once when it listens", () => {
    const index = new TagIndex()
    const entries = Array.from({ length: 20 }, (_, at) => entryOf(`peer ${at}`))
    for (const entry of entries) index.set(entry)
    // Four hours: those of which a tag may be from, and the next.
    for (let slice = 1; slice < 8; slice++) expect(index.prepare(now, 10)).toBe(false)
    expect(index.prepare(now, 11)).toBe(true)
    for (const entry of entries)
      for (const hour of [-1, 0, 1]) expect(index.lookup(tagAt(entry, now + hours(hour)), now)).toBe(entry)
  })

  it("keeps the tag of an entry when another of the same keys goes", () => {
    const index = new TagIndex()
    index.lookup(tagAt(aliceEntry, now), now)
    index.set({ ...aliceEntry, name: "old" })
    index.set(aliceEntry)
    for (const prepared of [false, true]) {
      if (prepared) index.prepare(now, 100)
      index.delete("old")
      expect(index.lookup(tagAt(aliceEntry, now), now)?.name).toBe("alice")
    }
  })
})

describe("the replay cache", () => {
  it("holds 256 nonces of one entry, and asks that entry alone for cookies", () => {
    const cache = new ReplayCache()
    for (let at = 0; at < 1000; at++) expect(cache.accept("insider", u64(at), now)).toBe(true)
    cache.accept("alice", u64(0), now)
    expect([cache.size, cache.isFull("insider"), cache.isFull("alice")]).toEqual([257, true, false])
    expect(cache.accept("alice", u64(0), now)).toBe(false)
  })

  it("holds 65,536 nonces in all", () => {
    const cache = new ReplayCache()
    for (let at = 0; at < 70_000; at++) cache.accept(`peer ${at % 500}`, u64(at), now)
    expect(cache.size).toBe(65_536)
    expect(cache.accept("peer 499", u64(69_999), now)).toBe(false)
  })

  it("remembers a nonce as long as its tag is valid, and not longer", () => {
    for (const [tolerance, kept] of [
      [1, 3],
      [3, 7]
    ] as const) {
      const cache = new ReplayCache(tolerance)
      cache.accept("alice", u64(1), now)
      cache.accept("alice", u64(2), now + hours(kept))
      expect(cache.accept("alice", u64(1), now + hours(kept))).toBe(false)
      cache.accept("alice", u64(3), now + hours(kept) + 1)
      expect(cache.size).toBe(2)
    }
  })
})

describe("a cookie", () => {
  const [source, nonce, share] = [Uint8Array.of(10, 0, 0, 1), real.randomBytes(32), real.randomBytes(32)]

  it("is good in its minute and the next, also over the hour when the key changes", () => {
    const jar = new CookieJar(real.randomBytes)
    const hour = now - (now % 3600)
    for (const at of [hour, hour + 3599, hour + 3600 + 59]) {
      const cookie = jar.bake(source, nonce, share, at)
      const minute = at - (at % 60)
      expect([0, 59, 60, 119, 120].map(later => jar.accepts(cookie, source, nonce, share, minute + later))).toEqual([
        true,
        true,
        true,
        true,
        false
      ])
    }
  })

  it("is bound to address, nonce and share, and to its process", () => {
    const jar = new CookieJar(real.randomBytes)
    const cookie = jar.bake(source, nonce, share, now)
    expect(jar.accepts(cookie, source, nonce, share, now)).toBe(true)
    expect(jar.accepts(cookie, Uint8Array.of(10, 0, 0, 2), nonce, share, now)).toBe(false)
    expect(jar.accepts(cookie, source, share, share, now)).toBe(false)
    expect(jar.accepts(cookie, source, nonce, nonce, now)).toBe(false)
    expect(new CookieJar(real.randomBytes).accepts(cookie, source, nonce, share, now)).toBe(false)
    expect(jar.accepts(keys.retry.subarray(0, 31), source, nonce, share, now)).toBe(false)
  })
})
