//! One hook of a cgroup: its programs, its attach flags, and the rules by which programs come and go.

use std::sync::Arc;

use parking_lot::Mutex;
use ring3_objects::Program;
use ring3_sync::RcuPair;
use ring3_uapi::{Errno, flags::mprog as bits};

use crate::hook::HookSlot;

/// Programs that one hook of a cgroup may have. Source: `BPF_CGROUP_MAX_PROGS`.
const PROGS_MAX: usize = 64;
/// The flags that are rules of a hook.
const RULES: u32 = bits::ALLOW_OVERRIDE | bits::ALLOW_MULTI;

/// Where among a cgroup's programs a new one goes.
#[derive(Clone, Default)]
pub enum CgroupPlace {
    /// Last.
    #[default]
    Last,
    /// First.
    First,
    /// In the place of this program (ALLOW_MULTI only).
    Replace(Arc<Program>),
    /// Directly before this program.
    Before(Arc<Program>),
    /// Directly after this program.
    After(Arc<Program>),
}

/// How a program is attached to a cgroup.
#[derive(Clone, Default)]
pub struct CgroupAttach {
    /// ALLOW_OVERRIDE or ALLOW_MULTI, and PREORDER.
    pub flags: u32,
    /// Where; anything but the end needs ALLOW_MULTI.
    pub place: CgroupPlace,
    /// Revision that the hook must have.
    pub expected_revision: Option<u64>,
}

#[derive(Clone)]
pub(super) struct Member {
    pub slot: HookSlot,
    pub is_preorder: bool,
}

/// The programs of one direction of a cgroup.
pub(super) struct Hook {
    pub state: Mutex<HookState>,
    pub effective: RcuPair<Vec<HookSlot>>,
}

pub(super) struct HookState {
    pub members: Vec<Member>,
    pub rules: u32,
    pub revision: u64,
}

impl Hook {
    pub(super) fn new() -> Hook {
        Hook {
            state: Mutex::new(HookState {
                members: Vec::new(),
                rules: 0,
                revision: 1,
            }),
            effective: RcuPair::new([Vec::new(), Vec::new()]),
        }
    }
}

pub(super) fn check_flags(how: &CgroupAttach) -> Result<(), Errno> {
    let is_multi = how.flags & bits::ALLOW_MULTI != 0;
    let has_place = !matches!(how.place, CgroupPlace::Last);
    if how.flags & !(RULES | bits::PREORDER) != 0
        || how.flags & RULES == RULES
        || (has_place && !is_multi)
    {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

impl HookState {
    /// What was replaced, if something was.
    pub(super) fn attach(
        &mut self,
        prog: &Arc<Program>,
        link: Option<u32>,
        how: &CgroupAttach,
    ) -> Result<Option<Member>, Errno> {
        let rules = how.flags & RULES;
        if !self.members.is_empty() && self.rules != rules {
            return Err(Errno::EPERM);
        }
        let new = Member {
            slot: HookSlot::new(prog, link),
            is_preorder: how.flags & bits::PREORDER != 0,
        };
        let removed = if rules & bits::ALLOW_MULTI == 0 {
            let old = self.members.pop();
            self.members.push(new);
            old
        } else {
            self.attach_among(new, &how.place)?
        };
        self.rules = rules;
        self.revision += 1;
        Ok(removed)
    }

    fn attach_among(&mut self, new: Member, place: &CgroupPlace) -> Result<Option<Member>, Errno> {
        let is_replaced = |member: &Member| match place {
            CgroupPlace::Replace(old) => {
                member.slot.link.is_none() && Arc::ptr_eq(&member.slot.prog, old)
            }
            _ => false,
        };
        let is_twice = |member: &&Member| {
            new.slot.link.is_none()
                && member.slot.link.is_none()
                && Arc::ptr_eq(&member.slot.prog, &new.slot.prog)
                && !is_replaced(member)
        };
        if self.members.iter().any(|member| is_twice(&member)) {
            return Err(Errno::EINVAL);
        }
        if let CgroupPlace::Replace(_) = place {
            let at = self.members.iter().position(is_replaced);
            let at = at.ok_or(Errno::ENOENT)?;
            return Ok(Some(std::mem::replace(&mut self.members[at], new)));
        }
        if self.members.len() >= PROGS_MAX {
            return Err(Errno::E2BIG);
        }
        let at = match place {
            CgroupPlace::First => 0,
            CgroupPlace::Before(relative) => self.position_beside(relative, &new)?,
            CgroupPlace::After(relative) => self.position_beside(relative, &new)? + 1,
            CgroupPlace::Last | CgroupPlace::Replace(_) => self.members.len(),
        };
        self.members.insert(at, new);
        Ok(None)
    }

    fn position_beside(&self, relative: &Arc<Program>, new: &Member) -> Result<usize, Errno> {
        let is_relative = |member: &Member| Arc::ptr_eq(&member.slot.prog, relative);
        let at = self
            .members
            .iter()
            .position(is_relative)
            .ok_or(Errno::ENOENT)?;
        if self.members[at].is_preorder == new.is_preorder {
            Ok(at)
        } else {
            Err(Errno::EINVAL)
        }
    }

    pub(super) fn detach(
        &mut self,
        prog: Option<&Arc<Program>>,
        link: Option<u32>,
    ) -> Result<Member, Errno> {
        let at = if self.rules & bits::ALLOW_MULTI == 0 {
            0
        } else {
            let is_wanted = |member: &Member| match (link, prog) {
                (Some(link), _) => member.slot.link == Some(link),
                (None, Some(prog)) => {
                    member.slot.link.is_none() && Arc::ptr_eq(&member.slot.prog, prog)
                }
                (None, None) => false,
            };
            match self.members.iter().position(is_wanted) {
                Some(at) => at,
                None if prog.is_none() && link.is_none() && !self.members.is_empty() => {
                    return Err(Errno::EINVAL);
                }
                None => return Err(Errno::ENOENT),
            }
        };
        if at >= self.members.len() {
            return Err(Errno::ENOENT);
        }
        let removed = self.members.remove(at);
        if self.members.is_empty() {
            self.rules = 0;
        }
        self.revision += 1;
        Ok(removed)
    }
}
