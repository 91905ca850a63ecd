import { Context } from "effect"
import { constants } from "node:fs"
import { mkdir, open, readdir, realpath, rename, rm, type FileHandle } from "node:fs/promises"
import { basename, dirname, join, resolve } from "node:path"

const fileMode = 0o600
const folderMode = 0o700

export interface StoreFile {
  /** Fills `into` from `at` on; gives how many bytes there were. */
  readonly read: (into: Uint8Array, at: number) => Promise<number>
  /** Writes all of `bytes` at `at`. */
  readonly write: (bytes: Uint8Array, at: number) => Promise<void>
  readonly truncate: (bytes: number) => Promise<void>
  /** Resolves when what was written is on the disk. */
  readonly sync: () => Promise<void>
  /** The length, and what tells this file from another one of the same name. */
  readonly stat: () => Promise<{ readonly bytes: number; readonly id: string }>
  readonly close: () => Promise<void>
}

/** The system calls that a durable file takes, each a step at which a machine can stop. */
export interface StoreFilesOperations {
  /** `create`: a new file of mode 0600, an error where there is one. Else undefined where there is none. */
  readonly open: (path: string, use: "read" | "update" | "create") => Promise<StoreFile | undefined>
  /** Makes a folder of mode 0700, durably, and those above it where they are missing. */
  readonly makeFolder: (path: string) => Promise<void>
  readonly rename: (from: string, to: string) => Promise<void>
  /** No error where there is no such file. */
  readonly remove: (path: string) => Promise<void>
  /** Resolves when the names in a folder are on the disk. */
  readonly syncFolder: (path: string) => Promise<void>
  /** The names in a folder, in no order. */
  readonly list: (path: string) => Promise<ReadonlyArray<string>>
  /** The one path of a file, whatever links lead to it; it need not be there. */
  readonly resolve: (path: string) => Promise<string>
}

/** The file system of the stores. Tests replace it by one that stops, or forgets what was not synced. */
export const StoreFiles = Context.Reference<StoreFilesOperations>("artifice/store/StoreFiles", {
  defaultValue: () => systemFiles
})

const isMissing = (error: unknown): boolean => error instanceof Error && "code" in error && error.code === "ENOENT"

const flags = {
  read: constants.O_RDONLY,
  update: constants.O_RDWR,
  create: constants.O_RDWR | constants.O_CREAT | constants.O_EXCL
}

const storeFile = (handle: FileHandle): StoreFile => ({
  read: async (into, at) => {
    let done = 0
    while (done < into.length) {
      const { bytesRead } = await handle.read(into, done, into.length - done, at + done)
      if (bytesRead === 0) break
      done += bytesRead
    }
    return done
  },
  write: async (bytes, at) => {
    for (let done = 0; done < bytes.length;) {
      done += (await handle.write(bytes, done, bytes.length - done, at + done)).bytesWritten
    }
  },
  truncate: bytes => handle.truncate(bytes),
  sync: () => handle.sync(),
  stat: async () => {
    const { size, dev, ino } = await handle.stat({ bigint: true })
    return { bytes: Number(size), id: `${dev}:${ino}` }
  },
  close: () => handle.close()
})

const syncFolder = async (path: string): Promise<void> => {
  // Windows gives no handle on a folder; its file systems write names through their journal.
  if (process.platform === "win32") return
  const handle = await open(path, "r")
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

export const systemFiles: StoreFilesOperations = {
  open: async (path, use) => {
    try {
      return storeFile(await open(path, flags[use], fileMode))
    } catch (error) {
      if (use !== "create" && isMissing(error)) return undefined
      throw error
    }
  },
  makeFolder: async path => {
    const first = await mkdir(path, { recursive: true, mode: folderMode })
    if (first !== undefined) await syncFolder(dirname(first))
  },
  rename,
  remove: path => rm(path, { force: true }),
  syncFolder,
  list: path => readdir(path),
  resolve: async path => {
    try {
      return await realpath(path)
    } catch (error) {
      if (!isMissing(error)) throw error
    }
    const folder = dirname(resolve(path))
    return join(await realpath(folder), basename(path))
  }
}
