//! What scripts show: programs in the order they run, filters, counters.

use std::{fmt::Write as _, sync::Arc};

use ring3_runtime::ProgObject;

use crate::{Device, Direction};

/// `tc filter show` of one direction, with what each filter did.
pub(super) fn filters(device: &Device, direction: Direction) -> String {
    let mut text = String::new();
    let mut shown = None;
    for filter in device.clsact(direction).filters().iter() {
        let protocol = filter.protocol.map_or("all", protocol_name);
        let head = format!(
            "filter protocol {protocol} pref {} bpf chain 0",
            filter.priority
        );
        if shown != Some(filter.priority) {
            let _ = writeln!(text, "{head} ");
            shown = Some(filter.priority);
        }
        let tag: String = filter
            .prog
            .tag()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let _ = write!(text, "{head} handle {:#x}", filter.handle);
        if filter.classid != 0 {
            let _ = write!(
                text,
                " flowid {:x}:{:x}",
                filter.classid >> 16,
                filter.classid & 0xffff
            );
        }
        let _ = write!(text, " {}", filter.label);
        if filter.is_direct {
            text.push_str(" direct-action");
        }
        let _ = writeln!(
            text,
            " not_in_hw id {} name {} tag {tag}",
            filter.prog.id(),
            filter.prog.name()
        );
        let _ = writeln!(
            text,
            "\truns {} matched {}",
            filter.counts.runs(),
            filter.counts.stops()
        );
    }
    text
}

/// Who runs when, in bpftool's words, with what each did.
pub(super) fn hooks(devices: &[Arc<Device>]) -> String {
    let mut text = String::from("xdp:\n");
    for device in devices {
        if let Some(slot) = device.xdp() {
            let link = slot
                .link
                .map_or_else(String::new, |link| format!(" link_id {link}"));
            let _ = writeln!(
                text,
                "{}({}) driver {} id {}{link}  runs {} stops {}",
                device.name(),
                device.ifindex(),
                slot.prog.name(),
                slot.prog.id(),
                slot.counts.runs(),
                slot.counts.stops()
            );
        }
    }
    text.push_str("\ntc:\n");
    for device in devices {
        let head = format!("{}({})", device.name(), device.ifindex());
        for direction in [Direction::Ingress, Direction::Egress] {
            let hook = device.tcx(direction);
            let slots = hook.slots();
            for slot in slots.iter() {
                let link = slot
                    .link
                    .map_or_else(String::new, |link| format!(" link_id {link}"));
                let _ = writeln!(
                    text,
                    "{head} tcx/{} {} prog_id {}{link}  runs {} stops {}",
                    direction.name(),
                    slot.prog.name(),
                    slot.prog.id(),
                    slot.counts.runs(),
                    slot.counts.stops()
                );
            }
            if !slots.is_empty() {
                let _ = writeln!(
                    text,
                    "{head} tcx/{} revision {}",
                    direction.name(),
                    hook.revision()
                );
            }
            for filter in device.clsact(direction).filters().iter() {
                let _ = writeln!(
                    text,
                    "{head} clsact/{} {} id {}  runs {} stops {}",
                    direction.name(),
                    filter.label,
                    filter.prog.id(),
                    filter.counts.runs(),
                    filter.counts.stops()
                );
            }
        }
    }
    text
}

/// Counters that are not zero.
pub(super) fn stats(devices: &[Arc<Device>]) -> String {
    let mut text = String::new();
    for device in devices {
        let _ = write!(text, "{}({}):", device.name(), device.ifindex());
        for (name, value) in device.stats().named().filter(|(_, value)| *value != 0) {
            let _ = write!(text, " {name} {value}");
        }
        text.push('\n');
    }
    text
}

fn protocol_name(protocol: [u8; 2]) -> &'static str {
    match protocol {
        [0x08, 0] => "ip",
        [0x86, 0xdd] => "ipv6",
        [0x08, 0x06] => "arp",
        [0x81, 0] => "802.1Q",
        [0x88, 0xa8] => "802.1ad",
        _ => "unknown",
    }
}
