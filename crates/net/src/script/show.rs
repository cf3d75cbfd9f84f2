//! What scripts show: programs in the order they run, filters, counters.

use std::{fmt::Write as _, sync::Arc};

use ring3_objects::{EngineKind, Program};
use ring3_runtime::ProgObject;
use ring3_uapi::ProgType;

use crate::{
    Counts, Device, Direction, action_name,
    clsact::{Filter, FilterAction, act},
};

/// How much of a filter is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// As tc does.
    Plain,
    /// And what it did.
    Counts,
}

/// `tc filter show` of one direction. With a priority, lines leave it out, as tc's do.
pub(super) fn filters(
    device: &Device,
    direction: Direction,
    priority: Option<u32>,
    detail: Detail,
) -> String {
    let mut text = String::new();
    let mut shown = None;
    for filter in device.clsact(direction).filters().iter() {
        if priority.is_some_and(|priority| priority != filter.priority) {
            continue;
        }
        let protocol = filter.protocol.map_or("all".to_owned(), protocol_name);
        let pref = match priority {
            Some(_) => String::new(),
            None => format!("pref {} ", filter.priority),
        };
        let head = format!("filter protocol {protocol} {pref}bpf chain 0 ");
        if shown != Some(filter.priority) {
            let _ = writeln!(text, "{head}");
            shown = Some(filter.priority);
        }
        let _ = write!(text, "{head}handle {:#x} ", filter.handle);
        if filter.classid != 0 {
            let _ = write!(text, "flowid {} ", class(filter.classid));
        }
        let _ = write!(text, "{} ", filter.label);
        if filter.is_direct {
            text.push_str("direct-action ");
        }
        let _ = writeln!(
            text,
            "not_in_hw id {} name {} tag {} {}",
            filter.prog.id(),
            filter.prog.name(),
            tag(&filter.prog),
            jited(&filter.prog)
        );
        for (order, action) in (1..).zip(&filter.actions) {
            show_action(&mut text, order, action);
        }
        if detail == Detail::Counts {
            let _ = writeln!(text, "\t{}", results(filter));
        }
    }
    text
}

fn show_action(text: &mut String, order: u32, action: &FilterAction) {
    match action {
        FilterAction::Fixed(verdict) => {
            let name = opcode_name(*verdict);
            let _ = writeln!(
                text,
                "\taction order {order}: gact action {name}\n\t random type none pass val 0"
            );
        }
        FilterAction::Bpf {
            prog,
            label,
            default,
            ..
        } => {
            let name = opcode_name(*default);
            let _ = writeln!(
                text,
                "\taction order {order}: bpf {label} id {} tag {} {}default-action {name}",
                prog.id(),
                tag(prog),
                jited(prog)
            );
        }
    }
    let _ = writeln!(text, "\t index {order} ref 1 bind 1\n");
}

/// What a filter's program returned, in words.
fn results(filter: &Filter) -> String {
    let mut text = format!(
        "runs {} decided {}",
        filter.counts.runs(),
        filter.counts.stops()
    );
    for (result, count) in filter.results.named() {
        let name = match (filter.is_direct, result) {
            (true, _) => action_name(ProgType::SchedCls, result as u32).unwrap_or("unknown"),
            (false, -1) => "match",
            (false, 0) => "no match",
            (false, _) => {
                let _ = write!(text, " class {} {count}", class(result as u32));
                continue;
            }
        };
        let _ = write!(text, " {name} {count}");
    }
    if filter.results.other() != 0 {
        let name = if filter.is_direct { "unknown" } else { "class" };
        let _ = write!(text, " {name} {}", filter.results.other());
    }
    text
}

fn class(classid: u32) -> String {
    format!("{:x}:{:x}", classid >> 16, classid & 0xffff)
}

fn tag(prog: &Program) -> String {
    prog.tag()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn jited(prog: &Program) -> &'static str {
    if prog.attr().engine == EngineKind::Jit {
        "jited "
    } else {
        ""
    }
}

fn opcode_name(verdict: i32) -> &'static str {
    match verdict {
        act::OK => "pass",
        act::SHOT => "drop",
        act::PIPE => "pipe",
        act::UNSPEC => "continue",
        act::RECLASSIFY => "reclassify",
        _ => "unknown",
    }
}

/// Who runs when, in bpftool's words, with what each did: packets it ran over, and packets that went no further along the chain.
pub(super) fn hooks(devices: &[Arc<Device>]) -> String {
    let mut text = String::from("xdp:\n");
    for device in devices {
        if let Some(slot) = device.xdp() {
            let _ = writeln!(
                text,
                "{} {} {} id {}{}  {}",
                name(device),
                device.xdp_mode().name(),
                slot.prog.name(),
                slot.prog.id(),
                link(slot.link),
                did(&slot.counts)
            );
        }
    }
    text.push_str("\ntc:\n");
    for device in devices {
        for direction in [Direction::Ingress, Direction::Egress] {
            tc_hooks(&mut text, device, direction);
        }
    }
    text
}

fn tc_hooks(text: &mut String, device: &Device, direction: Direction) {
    let head = name(device);
    let hook = device.tcx(direction);
    let slots = hook.slots();
    let way = direction.name();
    for slot in &slots {
        let _ = writeln!(
            text,
            "{head} tcx/{way} {} prog_id {}{}  {}",
            slot.prog.name(),
            slot.prog.id(),
            link(slot.link),
            did(&slot.counts)
        );
    }
    if let Some(first) = slots.first() {
        let stops: u64 = slots.iter().map(|slot| slot.counts.stops()).sum();
        let passed = first.counts.runs().saturating_sub(stops);
        let _ = writeln!(
            text,
            "{head} tcx/{way} revision {}, undecided {passed}",
            hook.revision()
        );
    }
    for filter in device.clsact(direction).filters().iter() {
        let _ = writeln!(
            text,
            "{head} clsact/{way} {} id {}  {}",
            filter.label,
            filter.prog.id(),
            did(&filter.counts)
        );
    }
}

fn name(device: &Device) -> String {
    format!("{}({})", device.name(), device.ifindex())
}

fn link(link: Option<u32>) -> String {
    link.map_or_else(String::new, |link| format!(" link_id {link}"))
}

fn did(counts: &Counts) -> String {
    let never = if counts.runs() == 0 {
        ", never ran"
    } else {
        ""
    };
    format!("runs {} stopped {}{never}", counts.runs(), counts.stops())
}

/// Counters that are not zero.
pub(super) fn stats(devices: &[Arc<Device>]) -> String {
    let mut text = String::new();
    for device in devices {
        let _ = write!(text, "{}:", name(device));
        for (name, value) in device.stats().named().filter(|(_, value)| *value != 0) {
            let _ = write!(text, " {name} {value}");
        }
        text.push('\n');
    }
    text
}

fn protocol_name(protocol: [u8; 2]) -> String {
    match protocol {
        [0x08, 0] => "ip".to_owned(),
        [0x86, 0xdd] => "ipv6".to_owned(),
        [0x08, 0x06] => "arp".to_owned(),
        [0x81, 0] => "802.1Q".to_owned(),
        [0x88, 0xa8] => "802.1ad".to_owned(),
        [a, b] => format!("[{}]", u16::from_be_bytes([a, b])),
    }
}
