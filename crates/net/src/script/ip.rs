//! Lines in the words of ip(8): devices, addresses, routes, neighbours, XDP.

use ring3_objects::Error;

use super::{
    Result, Script,
    parse::{Words, bad, parse_address, parse_mac, unknown},
};
use crate::{DeviceSpec, Route, RouteKind};

impl Script {
    pub(super) fn ip(&mut self, words: &mut Words<'_>) -> Result<()> {
        match (words.value("ip")?, words.value("ip")?) {
            ("link", "add") => self.link_add(words),
            ("link", "del") => {
                let device = self.net.device_by_name(words.value("del")?)?;
                self.net.remove_device(device.ifindex())
            }
            ("link", "set") => self.link_set(words),
            ("addr" | "address", "add") => self.addr_add(words),
            ("route", "add") => self.route_add(words),
            ("neigh", "add") => self.neigh_add(words),
            (object, verb) => Err(unknown(&format!("ip {object} {verb}"))),
        }
    }

    fn link_add(&mut self, words: &mut Words<'_>) -> Result<()> {
        let mut spec = DeviceSpec::new("");
        let mut peer = None;
        while let Some(word) = words.next() {
            if word == "type" {
                match words.value("type")? {
                    "veth" => {
                        words.expect("peer")?;
                        peer = Some(device_spec(words)?);
                    }
                    "dummy" => {}
                    other => return Err(unknown(other)),
                }
            } else {
                device_word(&mut spec, word, words)?;
            }
        }
        let device = self.net.add_device_with(&spec)?;
        if let Some(peer) = peer {
            // Both or none.
            let peer = self.net.add_device_with(&peer).inspect_err(|_| {
                // It was just added and nothing runs on it.
                let _ = self.net.remove_device(device.ifindex());
            })?;
            self.net.join(&device, &peer);
        }
        Ok(())
    }

    fn link_set(&mut self, words: &mut Words<'_>) -> Result<()> {
        let mut name = words.value("set")?;
        if name == "dev" {
            name = words.value("dev")?;
        }
        let device = self.net.device_by_name(name)?;
        match words.value("set")? {
            // Devices are up from the start.
            "up" => Ok(()),
            "xdp" => match words.value("xdp")? {
                "off" => self.net.set_xdp(&device, None),
                "obj" => {
                    let (prog, _) = self.object_program(words)?;
                    self.net.set_xdp(&device, Some(&prog))
                }
                other => Err(unknown(other)),
            },
            other => Err(unknown(other)),
        }
    }

    fn addr_add(&mut self, words: &mut Words<'_>) -> Result<()> {
        let mut route = parse_prefix(words.value("add")?)?;
        words.expect("dev")?;
        route.ifindex = self.net.device_by_name(words.value("dev")?)?.ifindex();
        match words.next() {
            None | Some("nodad") => self.net.add_address(route),
            Some(other) => Err(unknown(other)),
        }
    }

    fn route_add(&mut self, words: &mut Words<'_>) -> Result<()> {
        let mut kind = RouteKind::Unicast;
        let mut prefix = words.value("add")?;
        for (word, named) in [
            ("blackhole", RouteKind::Blackhole),
            ("unreachable", RouteKind::Unreachable),
            ("prohibit", RouteKind::Prohibit),
        ] {
            if prefix == word {
                kind = named;
                prefix = words.value(word)?;
            }
        }
        let mut route = Route {
            kind,
            ..parse_prefix(prefix)?
        };
        while let Some(word) = words.next() {
            match word {
                "via" => route.gateway = Some(parse_address(words.value("via")?)?.1),
                "dev" => route.ifindex = self.net.device_by_name(words.value("dev")?)?.ifindex(),
                "metric" => route.metric = words.number("metric")?,
                other => return Err(unknown(other)),
            }
        }
        self.net.add_route(route)
    }

    fn neigh_add(&mut self, words: &mut Words<'_>) -> Result<()> {
        let (_, address) = parse_address(words.value("add")?)?;
        words.expect("lladdr")?;
        let mac = parse_mac(words.value("lladdr")?)?;
        words.expect("dev")?;
        let device = self.net.device_by_name(words.value("dev")?)?;
        if let Some(word) = words.next() {
            match (word, words.value("nud")?) {
                ("nud", "permanent" | "reachable") => {}
                (_, other) => return Err(unknown(other)),
            }
        }
        self.net.add_neighbour(device.ifindex(), address, mac);
        Ok(())
    }
}

/// The words of a peer, to the end of the line.
fn device_spec(words: &mut Words<'_>) -> Result<DeviceSpec> {
    let mut spec = DeviceSpec::new("");
    while let Some(word) = words.next() {
        device_word(&mut spec, word, words)?;
    }
    Ok(spec)
}

fn device_word(spec: &mut DeviceSpec, word: &str, words: &mut Words<'_>) -> Result<()> {
    match word {
        "name" => spec.name = words.value("name")?.to_owned(),
        "mtu" => spec.mtu = words.number("mtu")?,
        "index" => spec.ifindex = Some(words.number("index")?),
        "address" => spec.mac = Some(parse_mac(words.value("address")?)?),
        other if spec.name.is_empty() => spec.name = other.to_owned(),
        other => return Err(unknown(other)),
    }
    Ok(())
}

/// `ADDRESS[/BITS]` or `default`, as a route without a device.
fn parse_prefix(text: &str) -> Result<Route> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let (is_ipv6, prefix) = parse_address(match address {
        "default" => "0.0.0.0",
        address => address,
    })?;
    let prefix_bits = match bits {
        Some(bits) => bits
            .parse()
            .map_err(|_| -> Error { bad(format!("prefix bits '{bits}'")) })?,
        None if address == "default" => 0,
        None if is_ipv6 => 128,
        None => 32,
    };
    Ok(Route {
        is_ipv6,
        prefix,
        prefix_bits,
        kind: RouteKind::Unicast,
        ifindex: 0,
        gateway: None,
        metric: 0,
    })
}
