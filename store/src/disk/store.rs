//! [`DiskStore`]: a [`Disk`] as an object store, for Delta logs and Parquet readers. What it wrote is
//! durable when it returns: neither the object store crate nor the Delta crate syncs by itself.
//!
//! Calls block their thread. They come from threads that the committer and the queries have for
//! themselves, and a read from the page cache is shorter than a switch to another thread.

use std::{fmt, io, ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode,
    Result, UploadPart, local::LocalFileSystem, path::Path,
};
use uuid::Uuid;

use super::{Disk, Entry, replace};

/// How a file that is still being written is called.
pub(crate) const UNFINISHED: &str = "tmp";

/// A disk seen as an object store.
#[derive(Clone, Debug)]
pub(crate) struct DiskStore {
    disk: Arc<dyn Disk>,
    /// Knows how a location is spelled as a path, nothing more.
    paths: Arc<LocalFileSystem>,
}

impl DiskStore {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, paths: Arc::new(LocalFileSystem::new()) }
    }

    fn path(&self, location: &Path) -> Result<PathBuf> {
        self.paths.path_to_filesystem(location)
    }

    fn meta(&self, location: &Path) -> Result<(PathBuf, ObjectMeta)> {
        let path = self.path(location)?;
        let entry = self.disk.entry(&path).map_err(|e| failed(location, e))?;
        if entry.is_dir {
            return Err(failed(location, io::Error::from(io::ErrorKind::NotFound)));
        }
        Ok((path, meta_of(location.clone(), &entry)))
    }

    fn put(&self, location: &Path, bytes: &[u8], only_new: bool) -> Result<PutResult> {
        let path = self.path(location)?;
        let written = match path.parent() {
            Some(dir) => self.disk.create_dir_all(dir),
            None => Ok(()),
        };
        let written = written.and_then(|()| match only_new {
            true => self.put_new(&path, bytes),
            false => replace(self.disk.as_ref(), &path, bytes),
        });
        written.map_err(|e| failed(location, e))?;
        Ok(PutResult { e_tag: None, version: None })
    }

    /// Whoever gives the name first has it.
    fn put_new(&self, path: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension(format!("{}.{UNFINISHED}", Uuid::new_v4().simple()));
        let written = self.disk.create(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync()
        });
        let linked = written.and_then(|()| self.disk.link(&temporary, path));
        let removed = self.disk.remove(&temporary);
        linked.and(removed)?;
        path.parent().map_or(Ok(()), |dir| self.disk.sync_dir(dir))
    }

    fn read(&self, location: &Path, range: Range<u64>) -> Result<Bytes> {
        let path = self.path(location)?;
        self.disk.read_range(&path, range).map_err(|e| failed(location, e))
    }

    fn walk(&self, dir: &Path, found: &mut Vec<ObjectMeta>) -> Result<()> {
        let (folders, files) = self.names(dir)?;
        found.extend(files);
        folders.iter().try_for_each(|folder| self.walk(folder, found))
    }

    /// Folders and finished files in a folder; one that is not there is empty.
    fn names(&self, dir: &Path) -> Result<(Vec<Path>, Vec<ObjectMeta>)> {
        let entries = match self.disk.list(&self.path(dir)?) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            Err(error) => return Err(failed(dir, error)),
        };
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        for entry in entries {
            let location = dir.clone().join(entry.name.as_str());
            if entry.is_dir {
                folders.push(location);
            } else if !entry.name.ends_with(UNFINISHED) {
                files.push(meta_of(location, &entry));
            }
        }
        folders.sort();
        files.sort_by(|a, b| a.location.cmp(&b.location));
        Ok((folders, files))
    }
}

fn meta_of(location: Path, entry: &Entry) -> ObjectMeta {
    ObjectMeta { location, last_modified: entry.modified.into(), size: entry.bytes, e_tag: None, version: None }
}

fn failed(location: &Path, source: io::Error) -> Error {
    let path = location.to_string();
    match source.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path, source: Box::new(source) },
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: Box::new(source) },
        _ => Error::Generic { store: "DiskStore", source: Box::new(source) },
    }
}

impl fmt::Display for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskStore")
    }
}

#[async_trait::async_trait]
impl ObjectStore for DiskStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let only_new = match opts.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "put_opts with an expected version".into(),
                    implementer: self.to_string(),
                });
            }
        };
        self.put(location, &Bytes::from(payload), only_new)
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Upload { store: self.clone(), location: location.clone(), parts: Vec::new() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (_, meta) = self.meta(location)?;
        options.check_preconditions(&meta)?;
        let whole = 0..meta.size;
        let range = match &options.range {
            Some(range) => {
                range.as_range(meta.size).map_err(|e| Error::Generic { store: "DiskStore", source: Box::new(e) })?
            }
            None => whole,
        };
        let bytes = if options.head { Bytes::new() } else { self.read(location, range.clone())? };
        let payload = GetResultPayload::Stream(stream::once(std::future::ready(Ok(bytes))).boxed());
        Ok(GetResult { payload, meta, range, attributes: Default::default() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        ranges.iter().map(|range| self.read(location, range.clone())).collect()
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Result<Path>| {
            let location = location?;
            let path = store.path(&location)?;
            store.disk.remove(&path).map_err(|e| failed(&location, e))?;
            Ok(location)
        };
        locations.map(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let mut found = Vec::new();
        let listed = self.walk(&prefix.cloned().unwrap_or_default(), &mut found);
        match listed {
            Ok(()) => stream::iter(found.into_iter().map(Ok)).boxed(),
            Err(error) => stream::once(std::future::ready(Err(error))).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (common_prefixes, objects) = self.names(&prefix.cloned().unwrap_or_default())?;
        Ok(ListResult { common_prefixes, objects })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let path = self.path(from)?;
        let bytes = self.disk.read(&path).map_err(|e| failed(from, e))?;
        self.put(to, &bytes, options.mode == CopyMode::Create).map(drop)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let (source, target) = (self.path(from)?, self.path(to)?);
        let renamed = match options.target_mode {
            RenameTargetMode::Overwrite => self.disk.rename(&source, &target),
            RenameTargetMode::Create => self.disk.link(&source, &target).and_then(|()| self.disk.remove(&source)),
        };
        let synced = renamed.and_then(|()| target.parent().map_or(Ok(()), |dir| self.disk.sync_dir(dir)));
        synced.map_err(|e| failed(to, e))
    }
}

/// A file that comes in parts: it is written when all are there.
#[derive(Debug)]
struct Upload {
    store: DiskStore,
    location: Path,
    parts: Vec<u8>,
}

#[async_trait::async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        data.iter().for_each(|bytes| self.parts.extend_from_slice(bytes));
        Box::pin(std::future::ready(Ok(())))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.store.put(&self.location, &std::mem::take(&mut self.parts), false)
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.clear();
        Ok(())
    }
}
