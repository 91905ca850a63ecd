import type { Transport } from "./Channel.ts"

/** js-libp2p: TCP, noise, yamux, with their defaults. */
export declare const libp2p: Transport
