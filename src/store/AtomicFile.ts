import { dirname } from "node:path"
import type { StoreFile, StoreFilesOperations } from "./StoreFiles.ts"

/** Whole files that are there in full or not at all, whenever the machine stops. */

export const temporaryPath = (path: string): string => `${path}.tmp`

/**
 * Writes a file beside `path` by `write`, syncs it, and renames it to `path`. The new name is durable once the folder is synced, which is left
 * to the caller. When anything fails the temporary file is removed and `path` is as it was.
 */
export const writeFileWhole = async <A>(
  files: StoreFilesOperations,
  path: string,
  write: (file: StoreFile) => Promise<A>
): Promise<A> => {
  const temporary = temporaryPath(path)
  await files.remove(temporary)
  try {
    const file = await files.open(temporary, "create")
    if (file === undefined) throw new Error(`the system gave no file for ${temporary}`)
    let result: A
    try {
      result = await write(file)
      await file.sync()
    } finally {
      await file.close()
    }
    await files.rename(temporary, path)
    return result
  } catch (error) {
    // Best done now, as it may be space that is missing; who comes after removes it otherwise.
    await files.remove(temporary).catch(() => undefined)
    throw error
  }
}

/** Replaces a small file, durably when it resolves; the folder is made where it is missing. */
export const replaceFile = async (files: StoreFilesOperations, path: string, bytes: Uint8Array): Promise<void> => {
  await files.makeFolder(dirname(path))
  await writeFileWhole(files, path, file => file.write(bytes, 0))
  await files.syncFolder(dirname(path))
}

/** Reads a file of at most `maxBytes`; undefined where there is none. */
export const readFileWhole = async (
  files: StoreFilesOperations,
  path: string,
  maxBytes: number
): Promise<Uint8Array | undefined> => {
  const file = await files.open(path, "read")
  if (file === undefined) return undefined
  try {
    const { bytes } = await file.stat()
    if (bytes > maxBytes) throw new Error(`${path} has ${bytes} bytes, more than the ${maxBytes} that it may have`)
    const content = new Uint8Array(bytes)
    return content.subarray(0, await file.read(content, 0))
  } finally {
    await file.close()
  }
}
