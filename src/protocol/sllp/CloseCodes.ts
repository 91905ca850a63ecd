/** Why an association ends: codes of CLOSE (§4.6). */
export const sllpCloseCodes = {
  normal: 0,
  idle: 1,
  limit: 2,
  protocol: 3,
  key: 4,
  sessionLost: 5,
  app: 6
} as const

export type SllpCloseName = keyof typeof sllpCloseCodes

export const sllpCloseNames = ["normal", "idle", "limit", "protocol", "key", "sessionLost", "app"] as const

export const sllpCloseCodeOf = (name: SllpCloseName): number => sllpCloseCodes[name]

/** The name of a code that a peer has sent; one that this version does not know is the application's affair. */
export const sllpCloseNameOf = (code: number): SllpCloseName =>
  sllpCloseNames.find(name => sllpCloseCodes[name] === code) ?? "app"
