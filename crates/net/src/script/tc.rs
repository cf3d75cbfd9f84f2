//! Lines in the words of tc(8) and tc-bpf(8): the clsact classifier.

use std::sync::Arc;

use ring3_objects::Error;
use ring3_uapi::Errno;

use super::{
    Result, Script, direction,
    parse::{Words, bad, parse_classid, parse_protocol, unknown},
    show,
};
use crate::{
    Device, Direction,
    clsact::{FilterAction, FilterSpec, act},
};

impl Script {
    pub(super) fn tc(&mut self, words: &mut Words<'_>) -> Result<()> {
        let mut object = words.value("tc")?;
        let with_counts = object == "-s";
        if with_counts {
            object = words.value("-s")?;
        }
        match (object, words.value("tc")?) {
            ("qdisc", "add" | "replace") => {
                words.expect("dev")?;
                self.net.device_by_name(words.value("dev")?)?;
                words.expect("clsact")
            }
            ("filter", verb) => {
                words.expect("dev")?;
                let device = self.net.device_by_name(words.value("dev")?)?;
                let direction = direction(words)?;
                match verb {
                    "add" => self.filter_add(&device, direction, words),
                    "show" => {
                        let priority = match words.next() {
                            None => None,
                            Some(word @ ("prio" | "pref")) => Some(words.number(word)?),
                            Some(other) => return Err(unknown(other)),
                        };
                        let detail = if with_counts {
                            show::Detail::Counts
                        } else {
                            show::Detail::Plain
                        };
                        self.print(&show::filters(&device, direction, priority, detail));
                        Ok(())
                    }
                    "del" => filter_del(&device, direction, words),
                    other => Err(unknown(other)),
                }
            }
            (object, verb) => Err(unknown(&format!("tc {object} {verb}"))),
        }
    }

    fn filter_add(
        &mut self,
        device: &Device,
        direction: Direction,
        words: &mut Words<'_>,
    ) -> Result<()> {
        let mut spec = FilterSpec {
            priority: None,
            handle: None,
            protocol: None,
            is_direct: false,
            classid: 0,
            label: String::new(),
            actions: Vec::new(),
        };
        let (mut prog, mut name) = (None, None);
        while let Some(word) = words.next() {
            match word {
                "prio" | "pref" => spec.priority = Some(words.number(word)?),
                "handle" => spec.handle = Some(words.number(word)?),
                "protocol" => spec.protocol = parse_protocol(words.value(word)?)?,
                "bpf" => {}
                "da" | "direct-action" => spec.is_direct = true,
                "obj" | "object-file" => prog = Some(self.object_program(words)?),
                "classid" | "flowid" => spec.classid = parse_classid(words.value(word)?)?,
                "name" => name = Some(words.value(word)?.to_owned()),
                "action" => {
                    let action = self.action(words)?;
                    spec.actions.push(action);
                }
                other => return Err(unknown(other)),
            }
        }
        let (prog, label) = prog.ok_or_else(|| bad("obj FILE sec SEC is missing"))?;
        spec.label = name.unwrap_or(label);
        device.clsact(direction).add(&prog, spec).map(|_| ())
    }

    fn action(&mut self, words: &mut Words<'_>) -> Result<FilterAction> {
        let word = words.value("action")?;
        if word != "bpf" {
            return match opcode(word) {
                Some(verdict) => Ok(FilterAction::Fixed(verdict)),
                None => Err(unknown(word)),
            };
        }
        words.expect("obj")?;
        let (prog, label) = self.object_program(words)?;
        let default = words.peek().and_then(opcode);
        if default.is_some() {
            words.next();
        }
        Ok(FilterAction::Bpf {
            prog,
            label,
            default: default.unwrap_or(act::PIPE),
            counts: Arc::default(),
        })
    }
}

/// What tc calls the opcodes of actions.
fn opcode(word: &str) -> Option<i32> {
    Some(match word {
        "ok" | "pass" => act::OK,
        "drop" | "shot" => act::SHOT,
        "pipe" => act::PIPE,
        "continue" => act::UNSPEC,
        "reclassify" => act::RECLASSIFY,
        _ => return None,
    })
}

fn filter_del(device: &Device, direction: Direction, words: &mut Words<'_>) -> Result<()> {
    let (mut priority, mut handle) = (None, None);
    while let Some(word) = words.next() {
        match word {
            "prio" | "pref" => priority = Some(words.number(word)?),
            "handle" => handle = Some(words.number(word)?),
            "bpf" => {}
            other => return Err(unknown(other)),
        }
    }
    match device.clsact(direction).remove(priority, handle)? {
        0 => {
            let message = "Filter with specified priority/protocol not found.";
            Err(Error::new(Errno::ENOENT, message))
        }
        _ => Ok(()),
    }
}
