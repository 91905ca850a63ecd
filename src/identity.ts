/** This machine's identity, without the rest of the library: for commands that must start at once. */
export {
  displayId,
  fingerprint,
  generateIdentity,
  isPeerId,
  type LocalIdentity,
  type PeerId
} from "./protocol/Identity.ts"
export { openHome, readHome, type Home, type HomeOptions, type HomePassphrase } from "./store/Home.ts"
export { StoreError, type StoreErrorCode } from "./store/StoreError.ts"
