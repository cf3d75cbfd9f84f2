//! Cgroups and their programs over packets: the tree, who may attach what where, and which programs run.
//!
//! Every cgroup has a list of programs for each direction and rules for it, its attach flags: no flag (one program, and nothing below), ALLOW_OVERRIDE
//! (one program, and one of a descendant in its place) or ALLOW_MULTI (many, and those of descendants as well). What runs for a cgroup c is worked out
//! at every edit and kept as one array, `effective(c)`:
//!
//! ```text
//! levels   c, its parent, ... the root; a level counts if it is ALLOW_MULTI, or if none before it had a program
//! order    programs with PREORDER, from the root down; then the others, from c up; within a level as attached
//! ```
//!
//! # Source
//! bpf(2), the comments on BPF_F_ALLOW_OVERRIDE, BPF_F_ALLOW_MULTI and BPF_F_PREORDER in linux/bpf.h of Linux 6.18. Written from them: attaching to a cgroup of
//! the host is not asked of a running kernel here.

mod hook;

use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use ring3_objects::{Error, LinkObject, Program};
use ring3_runtime::ProgObject;
use ring3_sync::rcu;
use ring3_uapi::{Errno, flags::mprog as bits};

use crate::{
    Direction, QueryAnswer,
    hook::{HookSlot, refused},
};
pub use hook::{CgroupAttach, CgroupPlace};
use hook::{Hook, check_flags};

/// A cgroup.
pub struct Cgroup {
    id: u64,
    name: String,
    classid: RwLock<u32>,
    parent: Option<Arc<Cgroup>>,
    children: Mutex<Vec<Weak<Cgroup>>>,
    hooks: [Hook; 2],
    links: Mutex<Vec<Weak<LinkObject>>>,
    /// Taken by every edit of the tree, once for all its cgroups.
    edits: Arc<Mutex<()>>,
}

impl std::fmt::Debug for Cgroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cgroup({}, {})", self.id, self.path())
    }
}

impl PartialEq for Cgroup {
    fn eq(&self, other: &Cgroup) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Cgroup {}

impl Cgroup {
    pub(crate) fn root() -> Arc<Cgroup> {
        Arc::new(Cgroup {
            id: 1,
            name: String::new(),
            classid: RwLock::new(0),
            parent: None,
            children: Mutex::default(),
            hooks: [Hook::new(), Hook::new()],
            links: Mutex::default(),
            edits: Arc::default(),
        })
    }

    /// A cgroup below this one, with what it inherits.
    ///
    /// # Errors
    /// EEXIST: the name is taken. EINVAL: an empty name, or one with a slash.
    pub(crate) fn add_child(self: &Arc<Self>, id: u64, name: &str) -> Result<Arc<Cgroup>, Error> {
        let refuse = |errno| Err(Error::new(errno, format!("cgroup '{name}'")));
        if name.is_empty() || name.contains('/') {
            return refuse(Errno::EINVAL);
        }
        let _edit = self.edits.lock();
        let mut children = self.children.lock();
        children.retain(|child| child.strong_count() > 0);
        let mut alive = children.iter().filter_map(Weak::upgrade);
        if alive.any(|child| child.name == name) {
            return refuse(Errno::EEXIST);
        }
        let child = Arc::new(Cgroup {
            id,
            name: name.to_owned(),
            classid: RwLock::new(0),
            parent: Some(Arc::clone(self)),
            children: Mutex::default(),
            hooks: [Hook::new(), Hook::new()],
            links: Mutex::default(),
            edits: Arc::clone(&self.edits),
        });
        children.push(Arc::downgrade(&child));
        drop(children);
        for direction in [Direction::Ingress, Direction::Egress] {
            child.publish(direction)?;
        }
        Ok(child)
    }

    /// Id; the root's is 1.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Path from the root, `/` for the root itself.
    pub fn path(&self) -> String {
        match &self.parent {
            None => "/".to_owned(),
            Some(parent) if parent.parent.is_none() => format!("/{}", self.name),
            Some(parent) => format!("{}/{}", parent.path(), self.name),
        }
    }

    /// Class of the packets that its tasks send, for `bpf_get_cgroup_classid`; 0 is none.
    pub fn set_classid(&self, classid: u32) {
        *self.classid.write() = classid;
    }

    /// Class of the packets that its tasks send.
    pub fn classid(&self) -> u32 {
        *self.classid.read()
    }

    /// Ids from the root down to this cgroup.
    pub fn ancestor_ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.levels().map(|level| level.id).collect();
        ids.reverse();
        ids
    }

    fn levels(&self) -> impl Iterator<Item = &Cgroup> {
        std::iter::successors(Some(self), |level| level.parent.as_deref())
    }

    /// Attaches a program, by itself or held by a link.
    ///
    /// # Errors
    /// EINVAL: flags that do not go together, a place without ALLOW_MULTI, a program that is attached already, a relative of the other order. ESTALE: another revision.
    /// EPERM: an ancestor or the programs that are here have other rules. ENOENT: what the place names is not here. E2BIG: 64 are attached. EBUSY:
    /// inside of a program run.
    pub fn attach(
        &self,
        direction: Direction,
        prog: &Arc<Program>,
        link: Option<u32>,
        how: &CgroupAttach,
    ) -> Result<(), Error> {
        let _edit = self.edits.lock();
        let refuse = |errno| refused(errno, "cgroup attach", Some(prog));
        check_flags(how).map_err(refuse)?;
        let removed = {
            let mut state = self.hooks[direction as usize].state.lock();
            if how
                .expected_revision
                .is_some_and(|expected| expected != state.revision)
            {
                return Err(refuse(Errno::ESTALE));
            }
            if !self.ancestors_allow(direction) {
                return Err(refuse(Errno::EPERM));
            }
            if rcu::in_read_section() {
                return Err(rcu::InReadSection.into());
            }
            state.attach(prog, link, how).map_err(refuse)?
        };
        self.publish_below(direction)?;
        drop(removed);
        Ok(())
    }

    /// Detaches a program, or a link's. Where only one may be attached it is that one, whatever is named.
    ///
    /// # Errors
    /// EINVAL: nothing is named, of many. ENOENT: it is not attached here. ESTALE: another revision. EBUSY: inside of a program run.
    pub fn detach(
        &self,
        direction: Direction,
        prog: Option<&Arc<Program>>,
        link: Option<u32>,
        expected_revision: Option<u64>,
    ) -> Result<(), Error> {
        let _edit = self.edits.lock();
        let refuse = |errno| refused(errno, "cgroup detach", prog);
        let removed = {
            let mut state = self.hooks[direction as usize].state.lock();
            if expected_revision.is_some_and(|expected| expected != state.revision) {
                return Err(refuse(Errno::ESTALE));
            }
            if rcu::in_read_section() {
                return Err(rcu::InReadSection.into());
            }
            state.detach(prog, link).map_err(refuse)?
        };
        self.publish_below(direction)?;
        drop(removed);
        Ok(())
    }

    /// Gives a link's place another program.
    ///
    /// # Errors
    /// ENOENT: the link is not attached here. EBUSY: inside of a program run.
    pub(crate) fn update_link(
        &self,
        direction: Direction,
        link: u32,
        to: &Arc<Program>,
    ) -> Result<(), Error> {
        let _edit = self.edits.lock();
        let removed = {
            let mut state = self.hooks[direction as usize].state.lock();
            let mut members = state.members.iter_mut();
            let member = members.find(|member| member.slot.link == Some(link));
            let member = member.ok_or_else(|| refused(Errno::ENOENT, "link update", Some(to)))?;
            let old = std::mem::replace(&mut member.slot, HookSlot::new(to, Some(link)));
            state.revision += 1;
            old
        };
        self.publish_below(direction)?;
        drop(removed);
        Ok(())
    }

    /// Whether the rules above let programs be attached here.
    fn ancestors_allow(&self, direction: Direction) -> bool {
        for level in self.levels().skip(1) {
            let state = level.hooks[direction as usize].state.lock();
            if state.rules & bits::ALLOW_MULTI != 0 {
                return true;
            }
            if !state.members.is_empty() {
                return state.rules & bits::ALLOW_OVERRIDE != 0;
            }
        }
        true
    }

    /// What runs for this cgroup, worked out anew.
    fn compute_effective(&self, direction: Direction) -> Vec<HookSlot> {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for level in self.levels() {
            let state = level.hooks[direction as usize].state.lock();
            let is_alone = first.is_empty() && last.is_empty();
            if !is_alone && state.rules & bits::ALLOW_MULTI == 0 {
                continue;
            }
            let (pre, post): (Vec<_>, Vec<_>) = state
                .members
                .iter()
                .cloned()
                .partition(|member| member.is_preorder);
            // The root's come first of those, so each level goes before what is there.
            first.splice(0..0, pre.into_iter().map(|member| member.slot));
            last.extend(post.into_iter().map(|member| member.slot));
        }
        first.append(&mut last);
        first
    }

    fn publish(&self, direction: Direction) -> Result<(), Error> {
        let mut effective = self.compute_effective(direction);
        let write = |_: &Vec<HookSlot>, new: &mut Vec<HookSlot>| {
            new.clear();
            new.append(&mut effective);
            Ok(())
        };
        self.hooks[direction as usize]
            .effective
            .edit(write, Vec::clear)
    }

    /// This cgroup's array and those of its descendants.
    fn publish_below(&self, direction: Direction) -> Result<(), Error> {
        self.publish(direction)?;
        let mut waiting: Vec<Arc<Cgroup>> = self.alive_children();
        while let Some(next) = waiting.pop() {
            next.publish(direction)?;
            waiting.extend(next.alive_children());
        }
        Ok(())
    }

    pub(crate) fn alive_children(&self) -> Vec<Arc<Cgroup>> {
        self.children
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// The programs that run for this cgroup's packets, in order.
    pub fn effective(&self, direction: Direction) -> Vec<HookSlot> {
        let effective = &self.hooks[direction as usize].effective;
        effective.read(&rcu::read()).clone()
    }

    /// Runs `each` over the effective programs.
    pub(crate) fn run(&self, direction: Direction, mut each: impl FnMut(&HookSlot)) {
        let section = rcu::read();
        let effective = &self.hooks[direction as usize].effective;
        effective.read(&section).iter().for_each(&mut each);
    }

    /// BPF_PROG_QUERY: the cgroup's own programs with their rules, or with BPF_F_QUERY_EFFECTIVE what runs.
    ///
    /// # Errors
    /// EINVAL: other flags.
    pub fn query(
        &self,
        direction: Direction,
        query_flags: u32,
        room: Option<u32>,
    ) -> Result<QueryAnswer, Error> {
        const EFFECTIVE: u32 = 1;
        if query_flags & !EFFECTIVE != 0 {
            let message = format!("cgroup query flags {query_flags:#x}, known is 1");
            return Err(Error::new(Errno::EINVAL, message));
        }
        let state = self.hooks[direction as usize].state.lock();
        let (rules, slots) = match query_flags {
            0 => {
                let members = state.members.iter();
                (
                    state.rules,
                    members.map(|member| member.slot.clone()).collect(),
                )
            }
            _ => (0, self.effective(direction)),
        };
        let count = slots.len();
        let given = count.min(room.unwrap_or(0) as usize);
        let ids = |slot: &HookSlot| (slot.prog.id(), slot.link.unwrap_or(0));
        let (prog_ids, link_ids) = slots[..given].iter().map(ids).unzip();
        Ok(QueryAnswer {
            attach_flags: rules,
            revision: state.revision,
            count: count as u32,
            prog_ids,
            link_ids,
            error: (room.is_some() && given < count).then_some(Errno::ENOSPC),
        })
    }

    pub(crate) fn hold_link(&self, link: &Arc<LinkObject>) {
        let mut links = self.links.lock();
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(link));
    }

    /// The cgroup is taken away: its links are detached, its hooks emptied, its name is free.
    ///
    /// # Errors
    /// EBUSY: there are cgroups below it, or it is the root, or inside of a program run.
    pub(crate) fn end(self: &Arc<Self>) -> Result<(), Error> {
        let edit = self.edits.lock();
        let Some(parent) = &self.parent else {
            return Err(Error::new(Errno::EBUSY, "cgroup '/': the root stays"));
        };
        if !self.alive_children().is_empty() {
            let message = format!("cgroup '{}': there are cgroups below it", self.path());
            return Err(Error::new(Errno::EBUSY, message));
        }
        let mut siblings = parent.children.lock();
        siblings.retain(|child| !std::ptr::eq(child.as_ptr(), Arc::as_ptr(self)));
        drop(siblings);
        drop(edit);
        for link in std::mem::take(&mut *self.links.lock()) {
            if let Some(link) = link.upgrade() {
                link.orphan();
            }
        }
        let _edit = self.edits.lock();
        for direction in [Direction::Ingress, Direction::Egress] {
            let removed = {
                let mut state = self.hooks[direction as usize].state.lock();
                state.rules = 0;
                std::mem::take(&mut state.members)
            };
            self.publish(direction)?;
            drop(removed);
        }
        Ok(())
    }
}
