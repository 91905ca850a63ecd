#!/usr/bin/env python3
"""Writes the ProVerif files of the invite handshake (docs/protocol.md, section 2.6): the model of paired.py with other roles.

Usage: invite.py FOLDER
"""
import pathlib
import sys

from paired import A, AGREEMENT_I, AGREEMENT_R, B, BASE, LEAK_RSA, queries

HEAD = (
    BASE[:BASE.index('let Initiator(')]
    .replace('%(name)s', 'invite %(name)s')
    .replace(
        'free pAB: bitstring [private].',
        'free inv: bitstring [private]. const anon: bitstring. const lHs2: bitstring.',
    )
)

ROLES = r'''
let Initiator(sI: sskey, eI: eskey, idR: bitstring, k: bitstring) =   (* the token pins idR and carries k *)
  let spI = spk(sI) in let epI = epk(eI) in let idI = pid(spI, epI) in
  new x: exponent; new nI: bitstring; %(leakx)s
  let prk = hext(lPair, k) in
  let m1b = (tM1, nI, exp(g,x), hexp(prk, lTag, (anon,idR))) in
  out(c, (m1b, mac(hexp(prk, lMac1, (anon,idR)), m1b)));
  in(c, (m2b: bitstring, mac2: bitstring));
  let (=tM2, nR: bitstring, gy: G, e2: bitstring) = m2b in
  let hs = hext(hexp(prk, lPsk, (anon,idR)), g2b(exp(gy,x))) in
  if mac2 = mac(hexp(hs, lConf, H((m1b,m2b))), empty) then
  let (spR: spkey, epR: epkey) = adec(hexp(hs, lHs2, H((m1b,(tM2,nR,gy)))), empty, e2) in
  if pid(spR, epR) = idR then
  let th2 = H((m1b,m2b)) in
  new rI: bitstring; new r1: rnd;
  let body3 = (spI, epI, idR, oaep(epR, rI, r1)) in
  let m3 = aead(hexp(hs, lHsI, th2), th2, (body3, sign((cSigI, (th2,body3)), sI))) in
  out(c, m3);
  in(c, m4: bitstring);
  let th3 = H((th2,m3)) in
  let (body4: bitstring, sigR: bitstring) = adec(hexp(hs, lHsR, th2), th3, m4) in
  let (=idI, =idR, ctI: bitstring) = body4 in
  if checksign(sigR, spR) = (cSigR, (th3,body4)) then
  let rR = oaepdec(eI, ctI) in
  let ms = hext(hexp(hs, lDerived, empty), (rI, rR)) in
  let th4 = H((th3,m4)) in
  let kI = hexp(ms, lI2R, th4) in let kR = hexp(ms, lR2I, th4) in
  event IAcc(idI, idR, (kI,kR)); event ISec(idI, idR, kI); event ISec(idI, idR, kR);
  event IRun(idI, idR, (kI,kR));
  out(c, aead(kI, empty, READY)).

let Responder(sR: sskey, eR: eskey, k: bitstring) =
  let spR = spk(sR) in let epR = epk(eR) in let idR = pid(spR, epR) in
  in(c, (m1b: bitstring, mac1: bitstring));
  let prk = hext(lPair, k) in
  let (=tM1, nI: bitstring, gx: G, tag: bitstring) = m1b in
  if tag = hexp(prk, lTag, (anon,idR)) then
  if mac1 = mac(hexp(prk, lMac1, (anon,idR)), m1b) then
  new y: exponent; new nR: bitstring; %(leaky)s
  let hs = hext(hexp(prk, lPsk, (anon,idR)), g2b(exp(gx,y))) in
  let m2h = (tM2, nR, exp(g,y)) in
  let m2b = (tM2, nR, exp(g,y), aead(hexp(hs, lHs2, H((m1b,m2h))), empty, (spR, epR))) in
  out(c, (m2b, mac(hexp(hs, lConf, H((m1b,m2b))), empty)));
  in(c, m3: bitstring);
  let th2 = H((m1b,m2b)) in
  let (body3: bitstring, sigI: bitstring) = adec(hexp(hs, lHsI, th2), th2, m3) in
  let (spI: spkey, epI: epkey, =idR, ctR: bitstring) = body3 in
  if checksign(sigI, spI) = (cSigI, (th2,body3)) then
  let idI = pid(spI, epI) in
  let rI = oaepdec(eR, ctR) in
  let th3 = H((th2,m3)) in
  new rR: bitstring; new r2: rnd;
  let body4 = (idI, idR, oaep(epI, rR, r2)) in
  let m4 = aead(hexp(hs, lHsR, th2), th3, (body4, sign((cSigR, (th3,body4)), sR))) in
  let ms = hext(hexp(hs, lDerived, empty), (rI, rR)) in
  let th4 = H((th3,m4)) in
  let kI = hexp(ms, lI2R, th4) in let kR = hexp(ms, lR2I, th4) in
  event RRun(idI, idR, (kI,kR));
  out(c, m4);
  in(c, rdy: bitstring);
  if adec(kI, empty, rdy) = READY then
  event RAcc(idI, idR, (kI,kR)); event RSec(idI, idR, kI); event RSec(idI, idR, kR).

%(q)s

process
  out(c, (spk(sA), epk(eA), spk(sB), epk(eB))); %(pre)s
  ( !Initiator(sA,eA,pid(spk(sB),epk(eB)),inv) | !Responder(sB,eB,inv) %(post)s )
'''

SECRECY_I = f'query k: bitstring; event(ISec({A},{B},k)) && attacker(k) ==> false.'
SECRECY_R = f'query k: bitstring; event(RSec({A},{B},k)) && attacker(k) ==> false.'
# Whoever the responder accepts is A: nobody without the token can be enrolled.
ONLY_A = f'query i,k: bitstring; event(RAcc(i,{B},k)) ==> i = {A}.'
REACHABLE = f'query k: bitstring; event(RAcc({A},{B},k)).'

SCENARIOS = {
    'i0_reach': dict(q=REACHABLE),
    'i0_honest': dict(q=queries(SECRECY_I, SECRECY_R, AGREEMENT_I, AGREEMENT_R, ONLY_A)),
    'i1_forward_secrecy': dict(q=queries(SECRECY_I, SECRECY_R), post='| (phase 1; ' + LEAK_RSA + ' out(c,inv))'),
    'i2_token_leaked_initiator': dict(q=queries(SECRECY_I, AGREEMENT_I), pre='out(c, inv);'),
    'i3_token_leaked_responder_ATTACK_EXPECTED': dict(q=ONLY_A, pre='out(c, inv);'),
}

EMPTY = dict(leakx='', leaky='', pre='', post='')


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, scenario in SCENARIOS.items():
        (folder / f'{name}.pv').write_text((HEAD + ROLES) % {**EMPTY, **scenario, 'name': name})
        print(name)


if __name__ == '__main__':
    main()
