//! Entries of every protocol with every attribute present and absent, written into a kernel attribute by
//! attribute.

use fastrand::Rng;

use super::raw::{Attributes, leaf, nest, number};

/// `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED`.
const SEEN_REPLY: u32 = 2;
const ASSURED: u32 = 4;
const CONFIRMED: u32 = 8;

#[derive(Clone)]
struct Made {
    v6: bool,
    proto: u8,
    src: u32,
    dst: u32,
    ports: (u16, u16),
    zone: Option<u16>,
}

/// Entry number `at`: all tuples differ. The masters of some are earlier ones.
pub(crate) struct Maker {
    rng: Rng,
    at: u32,
    masters: Vec<Made>,
    /// Entries with a helper, which may foresee connections.
    helped: Vec<Made>,
}

impl Maker {
    pub(crate) fn new(seed: u64) -> Maker {
        Maker { rng: Rng::with_seed(seed), at: 0, masters: Vec::new(), helped: Vec::new() }
    }

    /// The family and the attributes of the next create.
    pub(crate) fn next(&mut self) -> (u8, Attributes) {
        self.at += 1;
        let rng = &mut self.rng;
        let v6 = rng.bool();
        let icmp = if v6 { 58 } else { 1 };
        let proto = *rng.choice(&[6, 6, 6, 17, 17, icmp, 132, 47, 136, 50, 51, 200]).unwrap();
        let mut made = Made {
            v6,
            proto,
            src: self.at,
            dst: rng.u32(1..200),
            ports: (rng.u16(1024..60000), *rng.choice(&[21, 69, 80, 443, 5060]).unwrap()),
            zone: None,
        };
        let master = (rng.u8(0..8) == 0).then(|| rng.choice(&self.masters).cloned()).flatten();
        let zone = rng.u8(0..8);
        if let Some(master) = &master {
            (made.v6, made.proto, made.zone) = (master.v6, 6, master.zone);
        } else if zone == 0 {
            made.zone = Some(rng.u16(1..9));
        }
        let nat = if made.zone.is_some() { (false, false) } else { (rng.u8(0..3) == 0, rng.u8(0..4) == 0) };
        let one_way = master.is_none() && made.zone.is_none() && nat == (false, false) && rng.u8(0..8) == 0;
        let of_reply = rng.bool();
        let direction = |is: bool| one_way.then_some(9).filter(|_| is);
        let mut all = vec![
            made.tuple("CTA_TUPLE_ORIG", false, direction(!of_reply)),
            made.tuple("CTA_TUPLE_REPLY", true, direction(of_reply)),
        ];
        if let Some(zone) = made.zone {
            all.push(number16("CTA_ZONE", zone));
        }
        let seen = if rng.bool() { SEEN_REPLY } else { 0 };
        let assured = if rng.bool() { SEEN_REPLY | ASSURED } else { 0 };
        all.push(number32("CTA_STATUS", seen | assured | CONFIRMED));
        all.push(number32("CTA_TIMEOUT", rng.u32(600..5000)));
        if rng.bool() {
            all.push(number32("CTA_MARK", rng.u32(1..)));
        }
        if rng.u8(0..3) == 0 {
            all.push(leaf(number("CTA_LABELS"), &rng.u128(1..).to_ne_bytes()));
        }
        let helper = made.helper().filter(|_| master.is_none() && rng.bool());
        if let Some(helper) = helper {
            all.push(nest(number("CTA_HELP"), vec![leaf(number("CTA_HELP_NAME"), helper.as_bytes())]));
            if made.zone.is_none() && !one_way {
                self.helped.push(made.clone());
            }
        }
        protocol_part(rng, made.proto, &mut all);
        if nat.0 {
            all.push(made.nat("CTA_NAT_SRC", 0x0a63_0001, rng.u16(1024..60000), rng.bool()));
        }
        if nat.1 {
            all.push(made.nat(
                "CTA_NAT_DST",
                0x0a63_0002,
                rng.u16(1024..60000),
                made.proto != icmp && rng.bool(),
            ));
        }
        if let Some(master) = &master {
            all.push(master.tuple("CTA_TUPLE_MASTER", false, None));
        } else if made.proto == 6 && nat == (false, false) && !one_way {
            self.masters.push(made.clone());
        }
        (if made.v6 { 10 } else { 2 }, all)
    }
}

/// What only this protocol has.
fn protocol_part(rng: &mut Rng, proto: u8, all: &mut Attributes) {
    match proto {
        6 => {
            all.push(nest(number("CTA_PROTOINFO"), vec![tcp(rng)]));
            if rng.u8(0..3) == 0 {
                all.push(seqadj(rng, "CTA_SEQ_ADJ_ORIG"));
                all.push(seqadj(rng, "CTA_SEQ_ADJ_REPLY"));
            }
            if rng.u8(0..4) == 0 {
                let names = ["CTA_SYNPROXY_ISN", "CTA_SYNPROXY_ITS", "CTA_SYNPROXY_TSOFF"];
                let numbers = names.map(|name| number32(name, rng.u32(..)));
                all.push(nest(number("CTA_SYNPROXY"), numbers.into()));
            }
        }
        132 => {
            let inner = vec![
                leaf(number("CTA_PROTOINFO_SCTP_STATE"), &[rng.u8(1..8)]),
                number32("CTA_PROTOINFO_SCTP_VTAG_ORIGINAL", rng.u32(..)),
                number32("CTA_PROTOINFO_SCTP_VTAG_REPLY", rng.u32(..)),
            ];
            let inner = nest(number("CTA_PROTOINFO_SCTP"), inner);
            all.push(nest(number("CTA_PROTOINFO"), vec![inner]));
        }
        _ => {}
    }
}

impl Maker {
    /// The family and the attributes of an expectation of each entry with a helper.
    pub(crate) fn expectations(&mut self) -> Vec<(u8, Attributes)> {
        let rng = &mut self.rng;
        let mut all = Vec::new();
        for (at, master) in (1..).zip(&self.helped) {
            let expected = Made {
                dst: 70_000 + at,
                src: rng.u32(1..500),
                ports: (0, rng.u16(1024..60000)),
                ..master.clone()
            };
            let mut attributes = vec![
                master.tuple("CTA_EXPECT_MASTER", false, None),
                expected.tuple("CTA_EXPECT_TUPLE", false, None),
                expected.mask(rng.bool()),
                number32("CTA_EXPECT_FLAGS", rng.u32(0..4)),
            ];
            if master.helper() == Some("sip\0") {
                attributes.push(leaf(number("CTA_EXPECT_HELP_NAME"), b"sip\0"));
                attributes.push(number32("CTA_EXPECT_CLASS", rng.u32(0..3)));
            }
            if rng.bool() {
                let nat = vec![
                    number32("CTA_EXPECT_NAT_DIR", rng.u32(0..2)),
                    master.tuple("CTA_EXPECT_NAT_TUPLE", false, None),
                ];
                attributes.push(nest(number("CTA_EXPECT_NAT"), nat));
                attributes.push(leaf(number("CTA_EXPECT_FN"), b"nat-follow-master\0"));
            }
            all.push((if master.v6 { 10 } else { 2 }, attributes));
        }
        all
    }
}

impl Made {
    /// Of an expectation: the source port counts or not; so does the whole source address.
    fn mask(&self, port: bool) -> (u16, super::raw::Value) {
        let family = if self.v6 { "V6" } else { "V4" };
        let ones = vec![0xff; if self.v6 { 16 } else { 4 }];
        let ip = vec![
            leaf(number(&format!("CTA_IP_{family}_SRC")), &ones),
            leaf(number(&format!("CTA_IP_{family}_DST")), &ones),
        ];
        let proto = vec![
            leaf(number("CTA_PROTO_NUM"), &[self.proto]),
            number16("CTA_PROTO_SRC_PORT", if port { 0xffff } else { 0 }),
            number16("CTA_PROTO_DST_PORT", 0xffff),
        ];
        nest(
            number("CTA_EXPECT_MASK"),
            vec![nest(number("CTA_TUPLE_IP"), ip), nest(number("CTA_TUPLE_PROTO"), proto)],
        )
    }

    fn helper(&self) -> Option<&'static str> {
        match (self.proto, self.ports.1) {
            (6, 21) => Some("ftp\0"),
            (6 | 17, 5060) => Some("sip\0"),
            (17, 69) => Some("tftp\0"),
            _ => None,
        }
    }

    /// 10.x.x.x, or fd00::x: `last` in the low bits.
    fn address(&self, net: u8, last: u32) -> Vec<u8> {
        let [_, a, b, c] = last.to_be_bytes();
        if self.v6 {
            let mut bytes = vec![0xfd, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend([a, b, c]);
            bytes
        } else {
            vec![10 + net, a, b, c]
        }
    }

    fn tuple(&self, name: &str, reply: bool, zone: Option<u16>) -> (u16, super::raw::Value) {
        let (mut src, mut dst) = (self.address(0, self.src), self.address(1, self.dst));
        let (mut from, mut to) = self.ports;
        if reply {
            (src, dst) = (dst, src);
            (from, to) = (to, from);
        }
        let family = if self.v6 { "V6" } else { "V4" };
        let ip = vec![
            leaf(number(&format!("CTA_IP_{family}_SRC")), &src),
            leaf(number(&format!("CTA_IP_{family}_DST")), &dst),
        ];
        let mut proto = vec![leaf(number("CTA_PROTO_NUM"), &[self.proto])];
        match self.proto {
            6 | 17 | 132 | 47 | 136 => {
                proto.push(number16("CTA_PROTO_SRC_PORT", from));
                proto.push(number16("CTA_PROTO_DST_PORT", to));
            }
            1 | 58 => {
                let which = if self.v6 { "ICMPV6" } else { "ICMP" };
                let (query, answer) = if self.v6 { (128, 129) } else { (8, 0) };
                proto.push(number16(&format!("CTA_PROTO_{which}_ID"), self.ports.0));
                let kind = if reply { answer } else { query };
                proto.push(leaf(number(&format!("CTA_PROTO_{which}_TYPE")), &[kind]));
                proto.push(leaf(number(&format!("CTA_PROTO_{which}_CODE")), &[0]));
            }
            _ => {}
        }
        let mut all = vec![nest(number("CTA_TUPLE_IP"), ip), nest(number("CTA_TUPLE_PROTO"), proto)];
        all.extend(zone.map(|zone| number16("CTA_TUPLE_ZONE", zone)));
        nest(number(name), all)
    }

    fn nat(&self, name: &str, to: u32, port: u16, with_port: bool) -> (u16, super::raw::Value) {
        // Each entry has an address of its own to be translated to: no two clash.
        let address = self.address(to.to_be_bytes()[3] + 20, self.src);
        let family = if self.v6 { "V6" } else { "V4" };
        let mut all = vec![
            leaf(number(&format!("CTA_NAT_{family}_MINIP")), &address),
            leaf(number(&format!("CTA_NAT_{family}_MAXIP")), &address),
        ];
        if with_port && matches!(self.proto, 6 | 17 | 132 | 136 | 1 | 58) {
            let ports =
                vec![number16("CTA_PROTONAT_PORT_MIN", port), number16("CTA_PROTONAT_PORT_MAX", port)];
            all.push(nest(number("CTA_NAT_PROTO"), ports));
        }
        nest(number(name), all)
    }
}

fn number16(name: &str, value: u16) -> (u16, super::raw::Value) {
    leaf(number(name), &value.to_be_bytes())
}

fn number32(name: &str, value: u32) -> (u16, super::raw::Value) {
    leaf(number(name), &value.to_be_bytes())
}

fn tcp(rng: &mut Rng) -> (u16, super::raw::Value) {
    // Window scale, SACK, close-init; the mask makes them count.
    let mut flags = || [rng.u8(..) & 0x07, 0x07];
    let (orig, reply) = (flags(), flags());
    let all = vec![
        leaf(number("CTA_PROTOINFO_TCP_STATE"), &[rng.u8(1..9)]),
        leaf(number("CTA_PROTOINFO_TCP_WSCALE_ORIGINAL"), &[rng.u8(0..15)]),
        leaf(number("CTA_PROTOINFO_TCP_WSCALE_REPLY"), &[rng.u8(0..15)]),
        leaf(number("CTA_PROTOINFO_TCP_FLAGS_ORIGINAL"), &orig),
        leaf(number("CTA_PROTOINFO_TCP_FLAGS_REPLY"), &reply),
    ];
    nest(number("CTA_PROTOINFO_TCP"), all)
}

fn seqadj(rng: &mut Rng, name: &str) -> (u16, super::raw::Value) {
    let names = ["CTA_SEQADJ_CORRECTION_POS", "CTA_SEQADJ_OFFSET_BEFORE", "CTA_SEQADJ_OFFSET_AFTER"];
    nest(number(name), names.map(|name| number32(name, rng.u32(..))).into())
}
