import { HashDatabase } from "artifice"
import { Effect, Redacted, Schema } from "effect"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"

const Friend = Schema.Struct({ name: Schema.String, since: Schema.Date, photo: Schema.Uint8Array })

const friendsIn = (path: string, passphrase: string) =>
  HashDatabase.make({ path, schema: Friend, key: { passphrase: Redacted.make(passphrase) } })

/** What is in the database, on one line. */
const names = (friends: HashDatabase.HashDatabase<typeof Friend.Type>) =>
  Effect.map(friends.entries, entries => entries.map(([key, { name }]) => `${key} is ${name}`).join(", ") || "nobody")

const program = Effect.gen(function* () {
  const folder = yield* Effect.acquireRelease(
    Effect.promise(() => mkdtemp(join(tmpdir(), "friends-"))),
    path => Effect.promise(() => rm(path, { recursive: true }))
  )
  const path = join(folder, "friends.db")
  const archive = join(folder, "friends.archive")

  // A scope of its own: the file is closed, and free for other processes, when it ends.
  yield* Effect.scoped(
    Effect.gen(function* () {
      const friends = yield* friendsIn(path, "correct horse battery staple")
      yield* friends.insert("ada", { name: "Ada", since: new Date("2024-05-01"), photo: Uint8Array.of(1, 2, 3) })
      yield* friends.insert("grace", { name: "Grace", since: new Date(), photo: new Uint8Array(0) })
      const ada = yield* friends.get("ada")
      console.log(`stored: ${yield* names(friends)}; Ada since ${ada?.since.getFullYear()}`)

      yield* friends.archive(archive)
      yield* friends.change({ remove: ["ada", "grace"] })
      console.log(`removed: ${yield* names(friends)}`)
      yield* friends.restore(archive)
      console.log(`restored: ${yield* names(friends)}`)
    })
  )

  const refused = yield* Effect.flip(Effect.scoped(friendsIn(path, "a guess")))
  console.log(`${refused.code}: the guess changed nothing`)
  const again = yield* friendsIn(path, "correct horse battery staple")
  const { kdf, generation, count } = yield* again.metadata
  console.log(`opened again: ${count} entries by ${kdf}, after ${generation} durable writes`)
  const second = yield* Effect.flip(friendsIn(path, "correct horse battery staple"))
  console.log(`${second.code}: process ${second.pid === process.pid ? "this one" : second.pid} has it open`)
})

await Effect.runPromise(Effect.scoped(program))
