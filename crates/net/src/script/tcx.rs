//! Lines that attach at tcx.

use std::sync::Arc;

use ring3_mprog::{Anchor, Entry};
use ring3_objects::{Error, Program};
use ring3_uapi::Errno;

use super::{
    Result, Script, direction,
    parse::{Words, unknown},
};
use crate::{Device, Direction, Held};

impl Script {
    pub(super) fn tcx(&mut self, words: &mut Words<'_>) -> Result<()> {
        let verb = words.value("tcx")?;
        words.expect("dev")?;
        let device = self.net.device_by_name(words.value("dev")?)?;
        let direction = direction(words)?;
        match verb {
            "attach" => {
                words.expect("obj")?;
                let (prog, _) = self.object_program(words)?;
                self.tcx_attach(&device, direction, &prog, words)
            }
            "detach" => {
                let entry = find(&device, direction, words.value("detach")?)?;
                match entry.link {
                    Some(id) => {
                        self.links.retain(|link| link.id() != id);
                        Ok(())
                    }
                    None => device.tcx(direction).detach(
                        Some(&entry.prog.0),
                        None,
                        &Anchor::none(),
                        None,
                    ),
                }
            }
            other => Err(unknown(other)),
        }
    }

    fn tcx_attach(
        &mut self,
        device: &Arc<Device>,
        direction: Direction,
        prog: &Arc<Program>,
        words: &mut Words<'_>,
    ) -> Result<()> {
        let (mut anchor, mut revision, mut is_link) = (Anchor::none(), None, false);
        while let Some(word) = words.next() {
            match word {
                "link" => is_link = true,
                "first" => anchor = Anchor::first(),
                "last" => anchor = Anchor::last(),
                "before" => anchor = Anchor::before(find(device, direction, words.value(word)?)?),
                "after" => anchor = Anchor::after(find(device, direction, words.value(word)?)?),
                "replace" => {
                    anchor = Anchor::replacing(find(device, direction, words.value(word)?)?);
                }
                "revision" => revision = Some(u64::from(words.number(word)?)),
                other => return Err(unknown(other)),
            }
        }
        if is_link {
            let link = self
                .net
                .link_tcx(device, direction, prog, &anchor, revision)?;
            self.links.push(link);
            Ok(())
        } else {
            self.net
                .attach_tcx(device, direction, prog, &anchor, revision)
        }
    }
}

/// The entry of a hook whose program has this name.
fn find(device: &Device, direction: Direction, name: &str) -> Result<Entry<Held, u32>> {
    let slots = device.tcx(direction).slots();
    let slot = slots.iter().find(|slot| slot.prog.name() == name);
    let slot = slot.ok_or_else(|| {
        let message = format!(
            "no program '{name}' at tcx/{} of {}",
            direction.name(),
            device.name()
        );
        Error::new(Errno::ENOENT, message)
    })?;
    Ok(Entry {
        prog: Held(Arc::clone(&slot.prog)),
        link: slot.link,
    })
}
