import type { TlsCredentials } from "./Sockets.ts"

/** Self-signed RSA-3072 certificates of two ends that trust each other. */
export declare const certificates: () => Promise<{ readonly server: TlsCredentials; readonly client: TlsCredentials }>
