//! Words of a script line: numbers, addresses, classes, protocols.

use std::net::IpAddr;

use ring3_objects::Error;
use ring3_uapi::Errno;

use super::Result;

/// The words of a line, one by one.
pub(super) struct Words<'a>(std::iter::Peekable<std::vec::IntoIter<&'a str>>);

impl<'a> Words<'a> {
    pub(super) fn of(line: &'a str) -> Self {
        Words::from_vec(line.split_whitespace().collect())
    }

    pub(super) fn from_vec(words: Vec<&'a str>) -> Self {
        Words(words.into_iter().peekable())
    }

    pub(super) fn next(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    pub(super) fn peek(&mut self) -> Option<&'a str> {
        self.0.peek().copied()
    }

    pub(super) fn value(&mut self, of: &str) -> Result<&'a str> {
        self.next()
            .ok_or_else(|| bad(format!("'{of}': its value is missing")))
    }

    pub(super) fn number(&mut self, of: &str) -> Result<u32> {
        let text = self.value(of)?;
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        parsed.map_err(|_| bad(format!("'{of} {text}': no number")))
    }

    pub(super) fn expect(&mut self, word: &str) -> Result<()> {
        match self.next() {
            Some(found) if found == word => Ok(()),
            found => Err(bad(format!(
                "expected '{word}', found '{}'",
                found.unwrap_or("the end")
            ))),
        }
    }
}

pub(super) fn bad(message: impl Into<String>) -> Error {
    Error::new(Errno::EINVAL, message)
}

pub(super) fn unknown(word: &str) -> Error {
    bad(format!("unknown word '{word}'"))
}

pub(super) fn parse_address(text: &str) -> Result<(bool, [u8; 16])> {
    let mut bytes = [0; 16];
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            bytes[..4].copy_from_slice(&address.octets());
            Ok((false, bytes))
        }
        Ok(IpAddr::V6(address)) => Ok((true, address.octets())),
        Err(_) => Err(bad(format!("'{text}': no address"))),
    }
}

pub(super) fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts
            .next()
            .and_then(|part| u8::from_str_radix(part, 16).ok());
        *byte = part.ok_or_else(|| bad(format!("'{text}': no link address")))?;
    }
    Ok(mac)
}

pub(super) fn parse_classid(text: &str) -> Result<u32> {
    let (major, minor) = text.split_once(':').unwrap_or((text, ""));
    let part = |text: &str| match text {
        "" => Some(0),
        digits => u16::from_str_radix(digits, 16).ok(),
    };
    match (part(major), part(minor)) {
        (Some(major), Some(minor)) => Ok(u32::from(major) << 16 | u32::from(minor)),
        _ => Err(bad(format!("class '{text}'"))),
    }
}

pub(super) fn parse_protocol(text: &str) -> Result<Option<[u8; 2]>> {
    Ok(Some(match text {
        "all" => return Ok(None),
        "ip" => [0x08, 0],
        "ipv6" => [0x86, 0xdd],
        "arp" => [0x08, 0x06],
        "802.1Q" | "802.1q" => [0x81, 0],
        "802.1ad" => [0x88, 0xa8],
        other => return Err(bad(format!("protocol '{other}'"))),
    }))
}

pub(super) fn parse_hex(text: &str) -> Result<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(bad("hex digits come in pairs"));
    }
    (0..text.len())
        .step_by(2)
        .map(|at| {
            u8::from_str_radix(&text[at..at + 2], 16)
                .map_err(|_| bad(format!("'{}': no hex digits", &text[at..at + 2])))
        })
        .collect()
}
