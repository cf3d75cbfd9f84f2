//! `BpfFs`: the tree, its operations and their errnos.
//!
//! Nodes lie in a table by number, directories name their children by number: no reference cycles, no recursion. Names are sorted, so that
//! listings are the same every time.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use ring3_objects::{LinkObject, MapObject, Program};
use ring3_uapi::Errno;

use crate::path::Walk;

/// What a pin holds.
#[derive(Clone)]
pub enum Pinned {
    /// A map.
    Map(Arc<MapObject>),
    /// A program.
    Prog(Arc<Program>),
    /// A link.
    Link(Arc<LinkObject>),
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pinned::Map(map) => write!(f, "Map({})", map.id()),
            Pinned::Prog(prog) => write!(f, "Prog({:?})", prog.name()),
            Pinned::Link(link) => write!(f, "Link({})", link.id()),
        }
    }
}

impl Pinned {
    fn kind(&self) -> EntryKind {
        match self {
            Pinned::Map(_) => EntryKind::Map,
            Pinned::Prog(_) => EntryKind::Prog,
            Pinned::Link(_) => EntryKind::Link,
        }
    }

    /// A pin of a map counts as one of its users, as a descriptor does.
    fn was_pinned(&self) {
        if let Pinned::Map(map) = self {
            map.map().user_ref_get();
        }
    }

    fn was_unpinned(&self) {
        if let Pinned::Map(map) = self {
            map.map().user_ref_put();
        }
    }
}

/// What a name in a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Dir,
    /// A pinned map.
    Map,
    /// A pinned program.
    Prog,
    /// A pinned link.
    Link,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Name without path.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// Number of the root directory's node.
const ROOT: u64 = 0;

struct Dir {
    parent: u64,
    children: BTreeMap<String, u64>,
}

enum Node {
    Dir(Dir),
    Pin(Pinned),
}

struct Nodes {
    table: BTreeMap<u64, Node>,
    next: u64,
}

/// A tree of pins, mounted at a path. All operations may come from any thread.
pub struct BpfFs {
    mount: Vec<String>,
    nodes: Mutex<Nodes>,
}

/// Where a path leads.
enum Place {
    /// A node of the tree.
    Node(u64),
    /// Above or beside the mount point.
    Outside,
}

impl BpfFs {
    /// An empty tree that answers for paths at and below `mount`.
    pub fn mounted_at(mount: &str) -> BpfFs {
        let mount = mount
            .split('/')
            .filter(|step| !step.is_empty() && *step != ".")
            .map(str::to_owned)
            .collect();
        let root = Dir {
            parent: ROOT,
            children: BTreeMap::new(),
        };
        BpfFs {
            mount,
            nodes: Mutex::new(Nodes {
                table: BTreeMap::from([(ROOT, Node::Dir(root))]),
                next: ROOT + 1,
            }),
        }
    }

    /// The path it is mounted at.
    pub fn mount_path(&self) -> String {
        format!("/{}", self.mount.join("/"))
    }

    /// Whether a path leads into the tree.
    pub fn contains(&self, path: &str) -> bool {
        let nodes = self.nodes.lock();
        Walk::parse(path)
            .and_then(|walk| self.walk(&nodes, &walk))
            .is_ok_and(|place| matches!(place, Place::Node(_)))
    }

    /// Pins an object at a path that does not exist yet.
    ///
    /// # Errors
    /// EPERM: not below the mount point, or the name has a dot (the file system keeps such names for itself). ENOENT: no such directory.
    /// ENOTDIR: a pin in the middle of the path. EEXIST: the name is taken. ENAMETOOLONG.
    pub fn pin(&self, path: &str, object: Pinned) -> Result<(), Errno> {
        let mut nodes = self.nodes.lock();
        let (parent, name) = self.new_name(&nodes, path, NameOf::Pin)?;
        object.was_pinned();
        nodes.add(parent, name, Node::Pin(object));
        Ok(())
    }

    /// The object pinned at a path.
    ///
    /// # Errors
    /// ENOENT: nothing there. EACCES: a directory. ENOTDIR: a pin in the middle of the path.
    pub fn get(&self, path: &str) -> Result<Pinned, Errno> {
        let nodes = self.nodes.lock();
        let walk = Walk::parse(path)?;
        match self.walk(&nodes, &walk)? {
            Place::Node(node) => match nodes.table.get(&node) {
                Some(Node::Pin(pinned)) => Ok(pinned.clone()),
                Some(Node::Dir(_)) => Err(Errno::EACCES),
                None => Err(Errno::ENOENT),
            },
            Place::Outside => Err(Errno::ENOENT),
        }
    }

    /// The map pinned at a path.
    ///
    /// # Errors
    /// As [`BpfFs::get`]; EACCES: an object of another kind.
    pub fn get_map(&self, path: &str) -> Result<Arc<MapObject>, Errno> {
        match self.get(path)? {
            Pinned::Map(map) => Ok(map),
            Pinned::Prog(_) | Pinned::Link(_) => Err(Errno::EACCES),
        }
    }

    /// The program pinned at a path.
    ///
    /// # Errors
    /// As [`BpfFs::get`]; EACCES: an object of another kind.
    pub fn get_prog(&self, path: &str) -> Result<Arc<Program>, Errno> {
        match self.get(path)? {
            Pinned::Prog(prog) => Ok(prog),
            Pinned::Map(_) | Pinned::Link(_) => Err(Errno::EACCES),
        }
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`BpfFs::pin`].
    pub fn mkdir(&self, path: &str) -> Result<(), Errno> {
        let mut nodes = self.nodes.lock();
        let (parent, name) = self.new_name(&nodes, path, NameOf::Dir)?;
        nodes.add(
            parent,
            name,
            Node::Dir(Dir {
                parent,
                children: BTreeMap::new(),
            }),
        );
        Ok(())
    }

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// ENOENT: nothing there, or outside of the tree. ENOTDIR: a pin.
    pub fn readdir(&self, path: &str) -> Result<Vec<DirEntry>, Errno> {
        let nodes = self.nodes.lock();
        let walk = Walk::parse(path)?;
        let Place::Node(node) = self.walk(&nodes, &walk)? else {
            return Err(Errno::ENOENT);
        };
        let children = nodes.dir(node)?.children.iter();
        Ok(children
            .filter_map(|(name, child)| {
                let kind = match nodes.table.get(child)? {
                    Node::Dir(_) => EntryKind::Dir,
                    Node::Pin(pinned) => pinned.kind(),
                };
                Some(DirEntry {
                    name: name.clone(),
                    kind,
                })
            })
            .collect())
    }

    /// Takes a pin away; its object lives on if others hold it.
    ///
    /// # Errors
    /// ENOENT: nothing there. EISDIR: a directory. EPERM: outside of the tree.
    pub fn unlink(&self, path: &str) -> Result<(), Errno> {
        let removed = {
            let mut nodes = self.nodes.lock();
            let (parent, name, node) = self.existing(&nodes, path)?;
            if matches!(nodes.table.get(&node), Some(Node::Dir(_))) {
                return Err(Errno::EISDIR);
            }
            nodes.remove(parent, &name)
        };
        // Dropping the object may run arbitrary code of the host: outside of the lock.
        release(removed);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// ENOENT: nothing there. ENOTDIR: a pin. ENOTEMPTY. EBUSY: the mount point.
    pub fn rmdir(&self, path: &str) -> Result<(), Errno> {
        let mut nodes = self.nodes.lock();
        let (parent, name, node) = self.existing(&nodes, path)?;
        if !nodes.dir(node)?.children.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        nodes.remove(parent, &name);
        Ok(())
    }

    /// Renames within the tree; a pin or an empty directory that has the new name is replaced by one of its kind.
    ///
    /// # Errors
    /// ENOENT: nothing there, or no such directory. EXDEV: one of the paths is outside of the tree. EISDIR, ENOTDIR, ENOTEMPTY: what has the new name
    /// cannot be replaced. EINVAL: a directory into itself. EPERM: the new name has a dot.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        let replaced = {
            let mut nodes = self.nodes.lock();
            let outside = |errno| {
                if errno == Errno::EPERM {
                    Errno::EXDEV
                } else {
                    errno
                }
            };
            let (from_dir, from_name, node) = self.existing(&nodes, from).map_err(outside)?;
            let (to_dir, to_name) = self.parent_of(&nodes, to).map_err(outside)?;
            if nodes.is_below(to_dir, node) {
                return Err(Errno::EINVAL);
            }
            let target = nodes.dir(to_dir)?.children.get(&to_name).copied();
            if target == Some(node) {
                return Ok(());
            }
            if to_name.contains('.') {
                return Err(Errno::EPERM);
            }
            if let Some(target) = target {
                nodes.check_replaceable(node, target)?;
            }
            let replaced = target.and_then(|_| nodes.remove(to_dir, &to_name));
            if let Some(Node::Dir(dir)) = nodes.table.get_mut(&from_dir) {
                dir.children.remove(&from_name);
            }
            if let Some(Node::Dir(dir)) = nodes.table.get_mut(&to_dir) {
                dir.children.insert(to_name, node);
            }
            if let Some(Node::Dir(dir)) = nodes.table.get_mut(&node) {
                dir.parent = to_dir;
            }
            replaced
        };
        release(replaced);
        Ok(())
    }

    /// The directory and free name that a path stands for.
    fn new_name(&self, nodes: &Nodes, path: &str, of: NameOf) -> Result<(u64, String), Errno> {
        let wants_dir = Walk::parse(path)?.wants_dir;
        let (parent, name) = self.parent_of(nodes, path)?;
        if nodes.dir(parent)?.children.contains_key(&name) {
            return Err(Errno::EEXIST);
        }
        if wants_dir && of == NameOf::Pin {
            return Err(Errno::ENOENT);
        }
        if name.contains('.') {
            return Err(Errno::EPERM);
        }
        Ok((parent, name))
    }

    /// The node that a path names, with its directory and name.
    fn existing(&self, nodes: &Nodes, path: &str) -> Result<(u64, String, u64), Errno> {
        let wants_dir = Walk::parse(path)?.wants_dir;
        let (parent, name) = self.parent_of(nodes, path).map_err(|errno| {
            if errno == Errno::EEXIST {
                Errno::EBUSY
            } else {
                errno
            }
        })?;
        let child = nodes.dir(parent)?.children.get(&name).copied();
        let child = child.ok_or(Errno::ENOENT)?;
        if wants_dir {
            nodes.dir(child)?;
        }
        Ok((parent, name, child))
    }

    /// The directory of a path's last component. EEXIST for the mount point and `..`, which exist in any case; EPERM outside of the tree.
    fn parent_of(&self, nodes: &Nodes, path: &str) -> Result<(u64, String), Errno> {
        let walk = Walk::parse(path)?;
        if walk
            .steps
            .iter()
            .map(|step| (*step).to_owned())
            .eq(self.mount.iter().cloned())
        {
            return Err(Errno::EEXIST);
        }
        let (above, name) = walk.split_last().ok_or(Errno::EEXIST)?;
        if name == ".." {
            return Err(Errno::EEXIST);
        }
        match self.walk(nodes, &above)? {
            Place::Node(parent) => {
                nodes.dir(parent)?;
                Ok((parent, name.to_owned()))
            }
            Place::Outside => Err(Errno::EPERM),
        }
    }

    fn walk(&self, nodes: &Nodes, walk: &Walk<'_>) -> Result<Place, Errno> {
        // Components of the outer file system that were walked; the tree begins where they are the mount point's.
        let mut outer: Vec<&str> = Vec::new();
        let mut node = None;
        if self.mount.is_empty() {
            node = Some(ROOT);
        }
        for &step in &walk.steps {
            match node {
                Some(here) => {
                    let dir = nodes.dir(here)?;
                    match step {
                        ".." if here == ROOT => {
                            if outer.pop().is_some() {
                                node = None;
                            }
                        }
                        ".." => node = Some(dir.parent),
                        name => {
                            let child = dir.children.get(name).copied();
                            node = Some(child.ok_or(Errno::ENOENT)?);
                        }
                    }
                }
                None => {
                    if step == ".." {
                        outer.pop();
                    } else {
                        outer.push(step);
                    }
                    if outer == self.mount {
                        node = Some(ROOT);
                    }
                }
            }
        }
        match node {
            Some(node) => {
                if walk.wants_dir {
                    nodes.dir(node)?;
                }
                Ok(Place::Node(node))
            }
            None => Ok(Place::Outside),
        }
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let table = std::mem::take(&mut self.nodes.get_mut().table);
        for (_, node) in table {
            release(Some(node));
        }
    }
}

/// What a new name is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NameOf {
    Pin,
    Dir,
}

/// Lets go of what a node that left the tree holds.
fn release(node: Option<Node>) {
    if let Some(Node::Pin(pinned)) = node {
        pinned.was_unpinned();
    }
}

impl Nodes {
    fn dir(&self, node: u64) -> Result<&Dir, Errno> {
        match self.table.get(&node) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::Pin(_)) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn add(&mut self, parent: u64, name: String, node: Node) {
        let number = self.next;
        self.next += 1;
        self.table.insert(number, node);
        if let Some(Node::Dir(dir)) = self.table.get_mut(&parent) {
            dir.children.insert(name, number);
        }
    }

    fn remove(&mut self, parent: u64, name: &str) -> Option<Node> {
        let Some(Node::Dir(dir)) = self.table.get_mut(&parent) else {
            return None;
        };
        let child = dir.children.remove(name)?;
        self.table.remove(&child)
    }

    /// Whether `node` is `top` or lies below it.
    fn is_below(&self, mut node: u64, top: u64) -> bool {
        loop {
            if node == top {
                return true;
            }
            match self.table.get(&node) {
                Some(Node::Dir(dir)) if node != ROOT => node = dir.parent,
                _ => return false,
            }
        }
    }

    fn check_replaceable(&self, node: u64, target: u64) -> Result<(), Errno> {
        match (self.table.get(&node), self.table.get(&target)) {
            (Some(Node::Dir(_)), Some(Node::Dir(dir))) if dir.children.is_empty() => Ok(()),
            (Some(Node::Dir(_)), Some(Node::Dir(_))) => Err(Errno::ENOTEMPTY),
            (Some(Node::Dir(_)), Some(Node::Pin(_))) => Err(Errno::ENOTDIR),
            (Some(Node::Pin(_)), Some(Node::Dir(_))) => Err(Errno::EISDIR),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use ring3_maps::{MapAttr, MapType};
    use ring3_objects::System;

    use super::*;

    fn map(system: &Arc<System>) -> Arc<MapObject> {
        MapObject::create(system, &MapAttr::new(MapType::Hash, 4, 4, 4), None, None).unwrap()
    }

    #[test]
    fn pins_hold_their_object_until_they_are_unlinked() {
        let system = System::new();
        let fs = BpfFs::mounted_at("/sys/fs/bpf");
        let pinned = map(&system);
        let id = pinned.id();
        fs.pin("/sys/fs/bpf/m", Pinned::Map(pinned)).unwrap();
        assert!(system.map_by_id(id).is_some());
        assert_eq!(fs.get_map("/sys/fs/bpf/m").unwrap().id(), id);
        assert_eq!(fs.get_prog("/sys/fs/bpf/m").err(), Some(Errno::EACCES));
        fs.unlink("/sys/fs/bpf/m").unwrap();
        assert!(system.map_by_id(id).is_none());
        assert_eq!(fs.get("/sys/fs/bpf/m").err(), Some(Errno::ENOENT));
    }

    #[test]
    fn a_dropped_tree_drops_its_pins() {
        let system = System::new();
        let fs = BpfFs::mounted_at("/bpf");
        let pinned = map(&system);
        let id = pinned.id();
        fs.pin("/bpf/m", Pinned::Map(pinned)).unwrap();
        drop(fs);
        assert!(system.map_by_id(id).is_none());
    }

    #[test]
    fn names_are_refused_as_bpffs_does() {
        let system = System::new();
        let fs = BpfFs::mounted_at("/sys/fs/bpf");
        let object = || Pinned::Map(map(&system));
        let pin = |path: &str| fs.pin(path, object()).err();
        assert_eq!(pin("/tmp/x"), Some(Errno::EPERM));
        assert_eq!(pin("/sys/fs/bpf/../x"), Some(Errno::EPERM));
        assert_eq!(pin("/sys/fs/bpf"), Some(Errno::EEXIST));
        assert_eq!(pin("/sys/fs/bpf/no/x"), Some(Errno::ENOENT));
        assert_eq!(pin("/sys/fs/bpf/a.b"), Some(Errno::EPERM));
        assert_eq!(pin("/sys/fs/bpf/x/"), Some(Errno::ENOENT));
        assert_eq!(pin("/sys/fs/../fs/bpf/./x"), None);
        assert_eq!(pin("/sys/fs/bpf/x"), Some(Errno::EEXIST));
        assert_eq!(pin("/sys/fs/bpf/x/y"), Some(Errno::ENOTDIR));
        assert_eq!(fs.get("/sys/fs/bpf").err(), Some(Errno::EACCES));
        assert_eq!(fs.mkdir("/sys/fs/bpf/x"), Err(Errno::EEXIST));
        assert!(fs.contains("/sys/fs/bpf/x") && !fs.contains("/sys/fs/x"));
    }

    #[test]
    fn directories_are_listed_moved_and_removed() {
        let system = System::new();
        let fs = BpfFs::mounted_at("/b");
        fs.mkdir("/b/d").unwrap();
        fs.mkdir("/b/d/e/").unwrap();
        fs.pin("/b/d/m", Pinned::Map(map(&system))).unwrap();
        let entry = |name: &str, kind| DirEntry {
            name: name.to_owned(),
            kind,
        };
        let listed = fs.readdir("/b/d").unwrap();
        assert_eq!(
            listed,
            [entry("e", EntryKind::Dir), entry("m", EntryKind::Map)]
        );
        assert_eq!(fs.rmdir("/b/d"), Err(Errno::ENOTEMPTY));
        assert_eq!(fs.unlink("/b/d/e"), Err(Errno::EISDIR));
        assert_eq!(fs.rmdir("/b/d/m"), Err(Errno::ENOTDIR));
        assert_eq!(fs.rmdir("/b"), Err(Errno::EBUSY));
        assert_eq!(fs.rename("/b/d", "/b/d/e/f"), Err(Errno::EINVAL));
        assert_eq!(fs.rename("/b/d/m", "/b/d/e"), Err(Errno::EISDIR));
        assert_eq!(fs.rename("/b/d/e", "/b/d/m"), Err(Errno::ENOTDIR));
        assert_eq!(fs.rename("/b/d/m", "/tmp/m"), Err(Errno::EXDEV));
        fs.rename("/b/d/m", "/b/d/e/n").unwrap();
        fs.rename("/b/d/e", "/b/top").unwrap();
        assert_eq!(fs.readdir("/b/top/..").unwrap().len(), 2);
        assert!(fs.get("/b/top/n").is_ok());
        fs.rmdir("/b/d").unwrap();
        assert_eq!(fs.readdir("/b/d"), Err(Errno::ENOENT));
    }

    #[test]
    fn a_rename_replaces_the_pin_that_has_the_name() {
        let system = System::new();
        let fs = BpfFs::mounted_at("/b");
        let (one, two) = (map(&system), map(&system));
        let (kept, gone) = (one.id(), two.id());
        fs.pin("/b/one", Pinned::Map(one)).unwrap();
        fs.pin("/b/two", Pinned::Map(two)).unwrap();
        fs.rename("/b/one", "/b/two").unwrap();
        assert_eq!(fs.get_map("/b/two").unwrap().id(), kept);
        assert!(system.map_by_id(gone).is_none());
        assert_eq!(fs.readdir("/b").unwrap().len(), 1);
    }
}
