//! `simulate`: attach requests of several tools replayed at the hooks of one device, to see who runs when and who never does.
//!
//! A plan is a text of lines; `#` begins a comment:
//!
//! ```text
//! program firewall.drop_bad returns drop
//! program monitor.count     returns next
//! firewall: link ingress drop_bad first
//! monitor: attach ingress count after firewall.drop_bad
//! firewall: detach ingress drop_bad
//! ```
//!
//! `program TOOL.NAME returns next|pass|drop|redirect|varies` says how a program always ends; `varies` is the default. Requests are
//! `attach`, `link` and `detach` with a direction, a program and any of `first`, `last`, `before TOOL.NAME`, `after TOOL.NAME`,
//! `replace TOOL.NAME`, `revision N`.

use std::{collections::BTreeMap, fmt::Write};

use ring3_mprog::{Anchor, Entry, Mprog};
use ring3_objects::Error;
use ring3_uapi::Errno;

type Hook = Mprog<String, u32>;

struct Plan {
    hooks: [Hook; 2],
    verdicts: BTreeMap<String, String>,
    links: BTreeMap<String, u32>,
    next_link: u32,
    out: String,
}

/// Replays a plan: one line per request with its result, then for each direction the final order and the programs that never run.
///
/// # Errors
/// EINVAL: a line that is no request; the message has its number. Requests that a hook refuses are results, not errors.
pub fn simulate(text: &str) -> Result<String, Error> {
    let mut plan = Plan {
        hooks: [Hook::new(), Hook::new()],
        verdicts: BTreeMap::new(),
        links: BTreeMap::new(),
        next_link: 1,
        out: String::new(),
    };
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let result = plan.line(line);
        result.map_err(|message| {
            Error::new(Errno::EINVAL, format!("line {}: {message}", number + 1))
        })?;
    }
    plan.summary();
    Ok(plan.out)
}

impl Plan {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("program ") {
            let words: Vec<&str> = rest.split_whitespace().collect();
            return match words[..] {
                [
                    name,
                    "returns",
                    verdict @ ("next" | "pass" | "drop" | "redirect" | "varies"),
                ] => {
                    self.verdicts.insert(name.to_owned(), verdict.to_owned());
                    Ok(())
                }
                _ => Err(format!(
                    "'{line}': expected program TOOL.NAME returns next|pass|drop|redirect|varies"
                )),
            };
        }
        let (tool, request) = line
            .split_once(':')
            .ok_or_else(|| format!("'{line}': expected TOOL: REQUEST"))?;
        let mut words = request.split_whitespace();
        let action = words.next().ok_or("a request is missing")?;
        let direction = match words.next() {
            Some("ingress") => 0,
            Some("egress") => 1,
            _ => return Err("expected ingress or egress".to_owned()),
        };
        let name = words.next().ok_or("a program is missing")?;
        let name = format!("{}.{name}", tool.trim());
        let (anchor, revision) = self.place(&mut words)?;
        let result = self.apply(action, direction, &name, &anchor, revision)?;
        let text = result.map_or_else(|errno| errno.to_string(), |()| "ok".to_owned());
        let _ = writeln!(
            self.out,
            "{line}\n    {text}, {}",
            order(&self.hooks[direction])
        );
        Ok(())
    }

    fn place<'a>(
        &self,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<(Anchor<String, u32>, Option<u64>), String> {
        let mut anchor = Anchor::none();
        let mut revision = None;
        while let Some(word) = words.next() {
            if word == "first" {
                anchor = Anchor::first();
                continue;
            }
            if word == "last" {
                anchor = Anchor::last();
                continue;
            }
            let value = words
                .next()
                .ok_or_else(|| format!("'{word}': its value is missing"))?;
            let entry = || match self.links.get(value) {
                Some(link) => Entry::link(value.to_owned(), *link),
                None => Entry::program(value.to_owned()),
            };
            match word {
                "before" => anchor = Anchor::before(entry()),
                "after" => anchor = Anchor::after(entry()),
                "replace" => anchor = Anchor::replacing(Entry::program(value.to_owned())),
                "revision" => {
                    let number = value.parse().map_err(|_| format!("revision '{value}'"))?;
                    revision = Some(number);
                }
                _ => return Err(format!("unknown word '{word}'")),
            }
        }
        Ok((anchor, revision))
    }

    fn apply(
        &mut self,
        action: &str,
        direction: usize,
        name: &str,
        anchor: &Anchor<String, u32>,
        revision: Option<u64>,
    ) -> Result<Result<(), Errno>, String> {
        let hook = &mut self.hooks[direction];
        let result = match action {
            "attach" => hook
                .attach(Entry::program(name.to_owned()), anchor, revision)
                .map(|edit| edit.commit()),
            "link" => hook
                .attach(
                    Entry::link(name.to_owned(), self.next_link),
                    anchor,
                    revision,
                )
                .map(|edit| edit.commit()),
            "detach" => {
                let entry = match self.links.get(name) {
                    Some(link) => Entry::link(name.to_owned(), *link),
                    None => Entry::program(name.to_owned()),
                };
                hook.detach(Some(&entry), anchor, revision)
                    .map(|edit| edit.commit())
            }
            _ => {
                return Err(format!(
                    "unknown request '{action}': expected attach, link or detach"
                ));
            }
        };
        if result.is_ok() {
            match action {
                "link" => {
                    self.links.insert(name.to_owned(), self.next_link);
                    self.next_link += 1;
                }
                "detach" => {
                    self.links.remove(name);
                }
                _ => {}
            }
        }
        if hook.entries().is_empty() {
            *hook = Hook::new();
        }
        Ok(result.map(|_| ()))
    }

    fn summary(&mut self) {
        for (hook, direction) in self.hooks.iter().zip(["ingress", "egress"]) {
            if hook.entries().is_empty() {
                continue;
            }
            let _ = writeln!(self.out, "\n{direction}, revision {}:", hook.revision());
            let mut stopped_by: Option<&str> = None;
            for (at, entry) in hook.entries().iter().enumerate() {
                let verdict = self
                    .verdicts
                    .get(&entry.prog)
                    .map_or("varies", String::as_str);
                let link = entry
                    .link
                    .map_or_else(String::new, |link| format!(" link {link}"));
                let note = stopped_by.map_or_else(String::new, |by| {
                    format!("  never runs: {by} decides before it")
                });
                let _ = writeln!(
                    self.out,
                    "    {}. {}{link} ({verdict}){note}",
                    at + 1,
                    entry.prog
                );
                if matches!(verdict, "pass" | "drop" | "redirect") && stopped_by.is_none() {
                    stopped_by = Some(&entry.prog);
                }
            }
        }
    }
}

fn order(hook: &Hook) -> String {
    let names: Vec<&str> = hook
        .entries()
        .iter()
        .map(|entry| entry.prog.as_str())
        .collect();
    format!(
        "revision {}: {}",
        hook.revision(),
        if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_behind_one_that_always_decides_never_runs() {
        let out = simulate(
            "program fw.block returns drop\nprogram mon.count returns next\n\
             mon: attach ingress count\nfw: link ingress block first # before all\n\
             fw: attach ingress block\nmon: attach ingress late after fw.nothing\n",
        )
        .unwrap();
        assert!(
            out.contains("EEXIST, revision 3: fw.block, mon.count"),
            "{out}"
        );
        assert!(out.contains("ENOENT"), "{out}");
        assert!(out.contains("1. fw.block link 1 (drop)\n"), "{out}");
        assert!(
            out.contains("2. mon.count (next)  never runs: fw.block decides before it"),
            "{out}"
        );
    }

    #[test]
    fn a_line_that_is_no_request_is_named() {
        let error = simulate("\nfw: attach sideways x\n").unwrap_err();
        assert!(error.message.contains("line 2"), "{error}");
    }
}
