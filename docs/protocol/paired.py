#!/usr/bin/env python3
"""Writes one ProVerif file per scenario of the paired handshake (docs/protocol.md, section 2.3) from one model.

Usage: paired.py FOLDER
"""
import pathlib
import sys

BASE = r'''
(* artifice handshake v1, paired mode: X25519 + pair PSK + RSA-PSS (sign) + RSA-OAEP (transport)
   SCENARIO: %(name)s *)
free c: channel.
type exponent. type G. type sskey. type spkey. type eskey. type epkey. type rnd.
const g: G.
fun exp(G, exponent): G.
equation forall x: exponent, y: exponent; exp(exp(g,x),y) = exp(exp(g,y),x).
fun g2b(G): bitstring [data,typeConverter].
fun H(bitstring): bitstring.
fun hext(bitstring, bitstring): bitstring.          (* HKDF-Extract(salt, ikm) *)
fun hexp(bitstring, bitstring, bitstring): bitstring. (* HKDF-Expand-Label(prk,label,ctx) *)
fun mac(bitstring, bitstring): bitstring.              (* HMAC-SHA256 *)
fun aead(bitstring, bitstring, bitstring): bitstring.  (* AES-256-GCM(key, aad, pt); every key used once *)
reduc forall k: bitstring, a: bitstring, p: bitstring; adec(k, a, aead(k, a, p)) = p.
fun spk(sskey): spkey.
fun sign(bitstring, sskey): bitstring.
reduc forall m: bitstring, s: sskey; checksign(sign(m,s), spk(s)) = m.
reduc forall m: bitstring, s: sskey; getmess(sign(m,s)) = m.
fun epk(eskey): epkey.
fun oaep(epkey, bitstring, rnd): bitstring.
reduc forall e: eskey, m: bitstring, r: rnd; oaepdec(e, oaep(epk(e), m, r)) = m.
fun pid(spkey, epkey): bitstring.                      (* PeerID = SHA-256(identity document) *)

const lPair, lTag, lMac1, lPsk, lConf, lHsI, lHsR, lDerived, lI2R, lR2I, cSigI, cSigR, tM1, tM2, READY, DATA, empty: bitstring.
free sA, sB: sskey [private].
free eA, eB: eskey [private].
free pAB: bitstring [private].                         (* the pair key ("peer hash") of A and B *)

event IRun(bitstring, bitstring, bitstring).
event IAcc(bitstring, bitstring, bitstring).
event RRun(bitstring, bitstring, bitstring).
event RAcc(bitstring, bitstring, bitstring).
event ISec(bitstring, bitstring, bitstring).
event RSec(bitstring, bitstring, bitstring).
event RsaWorkR(bitstring, bitstring, bitstring).
event MacSentI(bitstring, bitstring, bitstring).

let Initiator(sI: sskey, eI: eskey, spR: spkey, epR: epkey, k: bitstring) =
  let idI = pid(spk(sI), epk(eI)) in
  let idR = pid(spR, epR) in
  new x: exponent; new nI: bitstring; %(leakx)s
  let prk = hext(lPair, k) in
  let m1b = (tM1, nI, exp(g,x), hexp(prk, lTag, (idI,idR))) in
  let m1 = (m1b, mac(hexp(prk, lMac1, (idI,idR)), m1b)) in
  out(c, m1);
  in(c, m2: bitstring);
  let (m2b: bitstring, mac2: bitstring) = m2 in
  let (=tM2, nR: bitstring, gy: G) = m2b in
  let hs = hext(hexp(prk, lPsk, (idI,idR)), g2b(exp(gy,x))) in
  if mac2 = mac(hexp(hs, lConf, H((m1b,(tM2,nR,gy)))), empty) then
  let th2 = H((m1b,m2b)) in
  new rI: bitstring; new r1: rnd;
  let body3 = (idI, idR, oaep(epR, rI, r1)) in
  let m3 = aead(hexp(hs, lHsI, th2), th2, (body3, sign((cSigI, (th2,body3)), sI))) in
  event MacSentI(idI, idR, th2);
  out(c, m3);
  in(c, m4: bitstring);
  let th3 = H((th2,m3)) in
  let (body4: bitstring, sigR: bitstring) = adec(hexp(hs, lHsR, th2), th3, m4) in
  let (=idI, =idR, ctI: bitstring) = body4 in
  if checksign(sigR, spR) = (cSigR, (th3,body4)) then
  let rR = oaepdec(eI, ctI) in
  let ms = hext(hexp(hs, lDerived, empty), (rI, rR)) in
  let th4 = H((th3,m4)) in
  let kI = hexp(ms, lI2R, th4) in
  let kR = hexp(ms, lR2I, th4) in
  event IAcc(idI, idR, (kI,kR));
  event ISec(idI, idR, kI); event ISec(idI, idR, kR);
  event IRun(idI, idR, (kI,kR));
  out(c, aead(kI, empty, READY));
  0.

let Responder(sR: sskey, eR: eskey, spI: spkey, epI: epkey, k: bitstring) =
  let idR = pid(spk(sR), epk(eR)) in
  let idI = pid(spI, epI) in
  in(c, m1: bitstring);
  let prk = hext(lPair, k) in
  let (m1b: bitstring, mac1: bitstring) = m1 in
  let (=tM1, nI: bitstring, gx: G, tag: bitstring) = m1b in
  if tag = hexp(prk, lTag, (idI,idR)) then
  if mac1 = mac(hexp(prk, lMac1, (idI,idR)), m1b) then
  new y: exponent; new nR: bitstring; %(leaky)s
  let hs = hext(hexp(prk, lPsk, (idI,idR)), g2b(exp(gx,y))) in
  let m2b = (tM2, nR, exp(g,y)) in
  let m2 = (m2b, mac(hexp(hs, lConf, H((m1b,m2b))), empty)) in
  out(c, m2);
  in(c, m3: bitstring);
  let th2 = H((m1b,m2b)) in
  let (body3: bitstring, sigI: bitstring) = adec(hexp(hs, lHsI, th2), th2, m3) in
  event RsaWorkR(idI, idR, th2);                       (* first RSA operation of R happens here *)
  let (=idI, =idR, ctR: bitstring) = body3 in
  if checksign(sigI, spI) = (cSigI, (th2,body3)) then
  let rI = oaepdec(eR, ctR) in
  let th3 = H((th2,m3)) in
  new rR: bitstring; new r2: rnd;
  let body4 = (idI, idR, oaep(epI, rR, r2)) in
  let m4 = aead(hexp(hs, lHsR, th2), th3, (body4, sign((cSigR, (th3,body4)), sR))) in
  let ms = hext(hexp(hs, lDerived, empty), (rI, rR)) in
  let th4 = H((th3,m4)) in
  let kI = hexp(ms, lI2R, th4) in
  let kR = hexp(ms, lR2I, th4) in
  event RRun(idI, idR, (kI,kR));
  out(c, m4);
  in(c, rdy: bitstring);
  if adec(kI, empty, rdy) = READY then
  event RAcc(idI, idR, (kI,kR));
  event RSec(idI, idR, kI); event RSec(idI, idR, kR);
  0.

(* one malicious insider M, registered at A and B; all its keys and pair keys are public *)
free sM: sskey. free eM: eskey. free pAM, pBM: bitstring.
let Evil() = Initiator(sA,eA,spk(sM),epk(eM),pAM) | Responder(sB,eB,spk(sM),epk(eM),pBM).

%(queries)s

process
  out(c, (spk(sA), epk(eA), spk(sB), epk(eB)));
  %(pre)s
  ( !Initiator(sA,eA,spk(sB),epk(eB),pAB) | !Responder(sB,eB,spk(sA),epk(eA),pAB) %(roles)s | !Evil() %(post)s )
'''

A = 'pid(spk(sA),epk(eA))'
B = 'pid(spk(sB),epk(eB))'

SECRECY = f"""
query k: bitstring; event(ISec({A},{B},k)) && attacker(k) ==> false.
query k: bitstring; event(RSec({A},{B},k)) && attacker(k) ==> false."""
AGREEMENT_I = f'query k: bitstring; inj-event(IAcc({A},{B},k)) ==> inj-event(RRun({A},{B},k)).'
AGREEMENT_R = f'query k: bitstring; inj-event(RAcc({A},{B},k)) ==> inj-event(IRun({A},{B},k)).'
AGREEMENT_R_BA = f'query k: bitstring; inj-event(RAcc({B},{A},k)) ==> inj-event(IRun({B},{A},k)).'
# R's first RSA operation implies a live initiator that holds the pair key.
WORK = f'query t: bitstring; event(RsaWorkR({A},{B},t)) ==> event(MacSentI({A},{B},t)).'
REACHABLE = f"""
query k: bitstring; event(IAcc({A},{B},k)).
query k: bitstring; event(RAcc({A},{B},k))."""
# Unknown key share: one key never belongs to two pairs of identities.
KEY_SHARE = 'query a,b,a2,b2,k: bitstring; event(ISec(a,b,k)) && event(RSec(a2,b2,k)) ==> a=a2 && b=b2.'

BOTH_ROLES = '| !Initiator(sB,eB,spk(sA),epk(eA),pAB) | !Responder(sA,eA,spk(sB),epk(eB),pAB)'
LEAK_DH = dict(leakx='out(c, x);', leaky='out(c, y);')
LEAK_RSA = 'out(c, sA); out(c, eA); out(c, sB); out(c, eB);'
LATER = '| (phase 1; ' + LEAK_RSA + ' out(c,pAB))'


def queries(*parts):
    return '\n'.join(parts)


ALL = queries(SECRECY, AGREEMENT_I, AGREEMENT_R)

SCENARIOS = {
    's0_reach': dict(queries=REACHABLE, expect='reachable (query false)'),
    's0_honest': dict(queries=queries(ALL, WORK), expect='all true'),
    's0_uks': dict(queries=KEY_SHARE, expect='true'),
    's1_forward_secrecy': dict(queries=SECRECY, post=LATER, expect='true'),
    's2_kci_A': dict(
        roles=BOTH_ROLES,
        queries=queries(AGREEMENT_I, AGREEMENT_R_BA, SECRECY),
        pre='out(c,sA); out(c,eA); out(c,pAB);',
        expect='A (as initiator or responder) still authenticates B',
    ),
    's3_psk_leaked': dict(queries=ALL, pre='out(c,pAB);', expect='true: RSA signatures + DH suffice'),
    's4_rsa_leaked': dict(queries=queries(ALL, WORK), pre=LEAK_RSA, expect='true: PSK + DH suffice'),
    's5_dh_broken': dict(queries=ALL, **LEAK_DH, expect='true'),
    's6_dh_broken_psk_leaked': dict(
        queries=ALL, **LEAK_DH, pre='out(c,pAB);', expect='true: RSA-OAEP carries secrecy'
    ),
    's7_quantum_dh_rsa_broken': dict(
        queries=ALL, **LEAK_DH, pre=LEAK_RSA, expect='true: PSK carries everything (PQ hedge)'
    ),
    's10_both_roles': dict(queries=ALL, roles=BOTH_ROLES, expect='true'),
    's8_sanity_psk_and_sigB': dict(
        queries=queries(AGREEMENT_I, SECRECY),
        pre='out(c,pAB); out(c,sB); out(c,eB);',
        expect='ATTACK expected (B fully compromised)',
    ),
    's9_harvest_psk_rsa_later_dh': dict(
        queries=SECRECY, **LEAK_DH, post=LATER, expect='ATTACK expected: nothing left'
    ),
}

EMPTY = dict(leakx='', leaky='', pre='', post='', roles='')


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, scenario in SCENARIOS.items():
        fields = {**EMPTY, **scenario, 'name': f"{name} -- expect {scenario['expect']}"}
        (folder / f'{name}.pv').write_text(BASE % fields)
        print(name)


if __name__ == '__main__':
    main()
