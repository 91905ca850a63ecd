/** This machine's identity, without the rest of the library: for commands that must start at once. */
export {
  displayId,
  fingerprint,
  generateIdentity,
  isPeerId,
  type LocalIdentity,
  type PeerId
} from "./protocol/Identity.ts"
export { loadIdentity, openIdentity } from "./store/IdentityFile.ts"
export { StoreError } from "./store/PeerStore.ts"
