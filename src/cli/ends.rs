//! Which connections an operator asks for: ADDRESS, ADDRESS:PORT, any or any:PORT; IPv6 as [ADDRESS]:PORT.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};

use crate::faces::rows::End2End;

/// What `source` and `destination` ask for.
#[derive(Default, PartialEq, Debug)]
pub(super) struct Ends {
    pub source: End,
    pub destination: End,
}

/// An address, a port, or both; what is not given admits any.
#[derive(Clone, Default, PartialEq, Debug)]
pub(super) struct End {
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl Ends {
    pub(super) fn parse(words: &[String], v6: bool) -> Result<Ends> {
        let mut ends = Ends::default();
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let end = match word {
                "source" => &mut ends.source,
                "destination" => &mut ends.destination,
                other => bail!("expected source or destination, found {other}"),
            };
            if *end != End::default() {
                bail!("{word} stands here for the second time");
            }
            let Some(value) = words.next() else { bail!("expected an address behind {word}") };
            *end = End::parse(word, value, v6)?;
        }
        Ok(ends)
    }

    pub(super) fn admits(&self, at: &End2End) -> bool {
        self.source.admits(at.src, at.sport) && self.destination.admits(at.dst, at.dport)
    }
}

impl End {
    pub(super) fn parse(which: &str, text: &str, v6: bool) -> Result<End> {
        let family = if v6 { "IPv6" } else { "IPv4" };
        let (address, port) = if let Some(rest) = text.strip_prefix('[') {
            let Some((address, port)) = rest.split_once(']') else {
                bail!("Please use prescribed format for {which} IP: [IPv6-address]:port");
            };
            (address, port.strip_prefix(':'))
        } else if v6 && text.matches(':').count() > 1 {
            (text, None)
        } else {
            match text.rsplit_once(':') {
                Some((address, port)) => (address, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            None => None,
            Some(port) => {
                let number = port.parse::<u16>().ok().filter(|port| *port > 0);
                Some(number.with_context(|| format!("Please enter a valid {which} port"))?)
            }
        };
        let address = match address {
            "any" => None,
            text => {
                let address = text.parse::<IpAddr>().ok().filter(|address| address.is_ipv6() == v6);
                let what = if port.is_some() { " and port" } else { "" };
                Some(
                    address
                        .with_context(|| format!("Please enter a valid {which} {family} address{what}"))?,
                )
            }
        };
        Ok(End { address, port })
    }

    /// As `parse`; which family is meant, the text shows.
    pub(super) fn of_either(which: &str, text: &str) -> Result<End> {
        let v6 = text.starts_with('[') || text.matches(':').count() > 1;
        End::parse(which, text, v6)
    }

    pub(super) fn admits(&self, address: IpAddr, port: Option<u16>) -> bool {
        self.address.is_none_or(|wanted| wanted == address)
            && self.port.is_none_or(|wanted| Some(wanted) == port)
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    fn ends(words: &[&str], v6: bool) -> Result<Ends> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Ends::parse(&words, v6)
    }

    #[test]
    fn ends_are_read_as_documented() {
        let all = ends(&["source", "10.0.0.1:22", "destination", "any:80"], false).unwrap();
        assert_eq!(all.source, End { address: Some([10, 0, 0, 1].into()), port: Some(22) });
        assert_eq!(all.destination, End { address: None, port: Some(80) });
        let six = ends(&["destination", "[fd00::1]:443"], true).unwrap();
        assert_eq!(six.destination, End { address: Some("fd00::1".parse().unwrap()), port: Some(443) });
        assert_eq!(ends(&["source", "fd00::1"], true).unwrap().source.port, None);
        assert_eq!(ends(&[], true).unwrap(), Ends::default());
    }

    #[test]
    fn the_family_shows_in_the_text() {
        let both = ["10.0.0.1:22", "[fd00::1]:22", "fd00::1", "any:22"]
            .map(|text| End::of_either("source", text).unwrap());
        let four = "10.0.0.1".parse().unwrap();
        assert_eq!(
            both.iter().map(|end| end.admits(four, Some(22))).collect::<Vec<_>>(),
            [true, false, false, true]
        );
        assert!(!both[0].admits(four, Some(23)) && both[2].admits("fd00::1".parse().unwrap(), None));
    }

    #[test]
    fn wrong_ends_are_named() {
        for (words, v6, says) in [
            (&["source", "10.0.0"][..], false, "Please enter a valid source IPv4 address"),
            (&["source", "10.0.0:22"], false, "Please enter a valid source IPv4 address and port"),
            (&["destination", "10.0.0.1:0"], false, "Please enter a valid destination port"),
            (&["destination", "fd00::1"], false, "Please enter a valid destination IPv4 address and port"),
            (
                &["source", "[fd00::1"],
                true,
                "Please use prescribed format for source IP: [IPv6-address]:port",
            ),
            (&["source", "10.0.0.1"], true, "Please enter a valid source IPv6 address"),
            (&["sauce", "10.0.0.1"], false, "expected source or destination, found sauce"),
            (&["source"], false, "expected an address behind source"),
            (&["source", "10.0.0.1", "source", "10.0.0.2"], false, "source stands here for the second time"),
        ] {
            assert_eq!(ends(words, v6).unwrap_err().to_string(), says);
        }
    }
}
