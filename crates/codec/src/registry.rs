//! Which types may come, in which versions, and how one becomes the other.
//!
//! Built once, then immutable and shared. Every inbound message is asked about: an unknown type, an unknown version and
//! invalid bytes are three different errors, because each asks for something else to be done.
use std::collections::HashMap;

use straightway_buffer::{BufferPool, PooledBuffer};

use crate::archive::{Archived, RkyvCodec, WireType, fingerprint, rebuild, type_id, view};
use crate::codec::{Codec, with_room};
use crate::error::CodecError;
use crate::header::Header;
use crate::json::JsonCodec;

type Validate = fn(&[u8]) -> Result<(), CodecError>;
type Transcode = fn(&[u8], &mut PooledBuffer) -> Result<(), CodecError>;

/// What is known about one version of a type.
#[derive(Debug, Clone, Copy)]
pub struct TypeInfo {
    /// Its name.
    pub name: &'static str,
    /// Its id in headers.
    pub id: u32,
    /// The version.
    pub version: u16,
    /// Bytes that its example takes: a first guess for buffers.
    pub size_hint: usize,
    /// Checksum of the layout.
    pub fingerprint: u32,
    validate: Validate,
    to_json: Transcode,
    from_json: Transcode,
}

impl TypeInfo {
    fn of<T: WireType>(pool: &BufferPool) -> Result<Self, CodecError> {
        Ok(Self {
            name: T::NAME,
            id: type_id(T::NAME),
            version: T::VERSION,
            size_hint: RkyvCodec.encode(&T::example(), pool)?.len(),
            fingerprint: fingerprint::<T>(),
            validate: |bytes| view::<T>(bytes).map(drop),
            to_json: |bytes, into| {
                JsonCodec.encode_into(&rebuild::<T>(view::<T>(bytes)?)?, into).map(drop)
            },
            from_json: |bytes, into| {
                let value: T = JsonCodec.decode(bytes)?;
                RkyvCodec.encode_into(&value, into).map(drop)
            },
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Conversion {
    from: u16,
    to: u16,
    convert: Transcode,
}

/// One type in all versions that are known here.
#[derive(Debug)]
struct Known {
    /// The version that is written and handed to readers.
    current: TypeInfo,
    /// Others, which can be read.
    others: Vec<TypeInfo>,
    conversions: Vec<Conversion>,
}

/// The types that may come. See the module's text.
#[derive(Debug, Default)]
pub struct TypeRegistry {
    types: HashMap<u32, Known>,
    names: HashMap<String, u32>,
}

/// Collects registrations.
#[derive(Debug, Default)]
pub struct RegistryBuilder {
    registry: TypeRegistry,
}

/// A message whose type and version are known and whose bytes are valid.
#[derive(Debug, Clone, Copy)]
pub struct Checked<'a> {
    /// What its bytes are.
    pub info: TypeInfo,
    /// The valid bytes.
    pub payload: &'a [u8],
}

/// A value that was asked for: where it lies, or rebuilt from another version.
pub enum Read<'a, T: WireType> {
    /// Read in place.
    InPlace(&'a Archived<T>),
    /// Converted from the version that came.
    Converted(T),
}

impl<T: WireType> Read<'_, T> {
    /// The value itself.
    pub fn into_owned(self) -> Result<T, CodecError> {
        match self {
            Self::InPlace(archived) => rebuild::<T>(archived),
            Self::Converted(value) => Ok(value),
        }
    }
}

impl RegistryBuilder {
    /// Registers a type in the version that this side writes and reads.
    ///
    /// # Errors
    /// [`CodecError::Registration`] when the type, or another type of the same id, is registered already.
    pub fn register_type<T: WireType>(&mut self) -> Result<&mut Self, CodecError> {
        let info = TypeInfo::of::<T>(&pool()?)?;
        let refuse = |reason| CodecError::Registration { name: T::NAME.to_owned(), reason };
        match self.registry.types.get(&info.id) {
            Some(known) if known.current.name == T::NAME => {
                return Err(refuse("it is registered; further versions come in with `convert`"));
            }
            Some(_) => return Err(refuse("another type has the same id; choose another name")),
            None => {}
        }
        if self.registry.names.contains_key(T::NAME) {
            return Err(refuse("its name is the alias of another type"));
        }
        self.registry.names.insert(T::NAME.to_owned(), info.id);
        let known = Known { current: info, others: Vec::new(), conversions: Vec::new() };
        self.registry.types.insert(info.id, known);
        Ok(self)
    }

    /// Lets one version of a registered type be turned into another: an older one that comes is read as the current one,
    /// and the current one can be written for a peer that knows only an older one.
    ///
    /// # Errors
    /// [`CodecError::Registration`] when the names differ, the type is not registered or the conversion is known.
    pub fn convert<From: WireType, To: WireType + std::convert::From<From>>(
        &mut self,
    ) -> Result<&mut Self, CodecError> {
        let refuse = |reason| Err(CodecError::Registration { name: From::NAME.to_owned(), reason });
        if From::NAME != To::NAME {
            return refuse("both versions must have the same name");
        }
        let infos = [TypeInfo::of::<From>(&pool()?)?, TypeInfo::of::<To>(&pool()?)?];
        let Some(known) = self.registry.types.get_mut(&infos[0].id) else {
            return refuse("register the current version first");
        };
        for info in infos {
            let same = |other: &&TypeInfo| other.version == info.version;
            let listed = known.others.iter().chain([&known.current]).find(same).copied();
            match listed {
                Some(other) if other.fingerprint != info.fingerprint => {
                    return refuse("two layouts claim the same version");
                }
                Some(_) => {}
                None => known.others.push(info),
            }
        }
        let (from, to) = (From::VERSION, To::VERSION);
        if known.conversions.iter().any(|other| (other.from, other.to) == (from, to)) {
            return refuse("this conversion is registered");
        }
        let convert: Transcode = |bytes, into| {
            let old = rebuild::<From>(view::<From>(bytes)?)?;
            RkyvCodec.encode_into(&To::from(old), into).map(drop)
        };
        known.conversions.push(Conversion { from, to, convert });
        Ok(self)
    }

    /// Lets a type be named in another way.
    ///
    /// # Errors
    /// [`CodecError::Registration`] when the alias is taken or the type is not registered.
    pub fn add_alias(&mut self, alias: &str, name: &str) -> Result<&mut Self, CodecError> {
        let refuse = |reason| CodecError::Registration { name: alias.to_owned(), reason };
        let id = self.registry.names.get(name).copied();
        let id = id.ok_or_else(|| refuse("the type that it is to stand for is not registered"))?;
        if self.registry.names.contains_key(alias) {
            return Err(refuse("the name is taken"));
        }
        self.registry.names.insert(alias.to_owned(), id);
        Ok(self)
    }

    /// The registry.
    pub fn build(self) -> TypeRegistry {
        self.registry
    }
}

fn pool() -> Result<BufferPool, CodecError> {
    Ok(BufferPool::new(straightway_buffer::PoolConfig::tiered())?)
}

impl TypeRegistry {
    /// Starts with no types.
    pub fn builder() -> RegistryBuilder {
        RegistryBuilder::default()
    }

    /// The current versions of all types.
    pub fn types(&self) -> impl Iterator<Item = &TypeInfo> {
        self.types.values().map(|known| &known.current)
    }

    /// The current version of a type, by its name or an alias.
    pub fn get_type_info(&self, name: &str) -> Option<&TypeInfo> {
        self.names.get(name).and_then(|id| self.types.get(id)).map(|known| &known.current)
    }

    /// Whether the bytes are a valid value of the current version of a type, named by its name or an alias.
    ///
    /// # Errors
    /// [`CodecError::UnknownType`], [`CodecError::Invalid`].
    pub fn validate_type(&self, name: &str, bytes: &[u8]) -> Result<(), CodecError> {
        let unknown = CodecError::UnknownType { id: type_id(name) };
        (self.get_type_info(name).ok_or(unknown)?.validate)(bytes)
    }

    /// Finds out what a message is and validates it as that. Allocates nothing.
    ///
    /// # Errors
    /// [`CodecError::UnknownType`], [`CodecError::UnknownVersion`], [`CodecError::Invalid`].
    pub fn check<'a>(&self, header: &Header, payload: &'a [u8]) -> Result<Checked<'a>, CodecError> {
        let info = *self.version_of(header.type_id, header.version)?;
        (info.validate)(payload)?;
        Ok(Checked { info, payload })
    }

    /// Reads a message as the current version of a type, whichever version came.
    ///
    /// # Errors
    /// As [`Self::check`]; [`CodecError::WrongType`]; [`CodecError::UnknownVersion`] when there is no conversion.
    pub fn read<'a, T: WireType>(
        &self,
        header: &Header,
        payload: &'a [u8],
    ) -> Result<Read<'a, T>, CodecError> {
        let checked = self.check(header, payload)?;
        if checked.info.version == T::VERSION {
            return checked.view::<T>().map(Read::InPlace);
        }
        checked.require::<T>()?;
        let converted = self.convert(header.type_id, header.version, T::VERSION, payload)?;
        rebuild::<T>(view::<T>(&converted)?).map(Read::Converted)
    }

    /// Turns a valid payload of one version into another.
    ///
    /// # Errors
    /// [`CodecError::UnknownVersion`] when there is no way from one to the other.
    pub fn convert(
        &self,
        id: u32,
        from: u16,
        to: u16,
        payload: &[u8],
    ) -> Result<PooledBuffer, CodecError> {
        let known = self.types.get(&id).ok_or(CodecError::UnknownType { id })?;
        let name = known.current.name;
        let unknown =
            CodecError::UnknownVersion { name, version: from, known: known.current.version };
        let pool = pool()?;
        let step =
            |from, to| known.conversions.iter().find(|step| (step.from, step.to) == (from, to));
        let run = |step: &Conversion, bytes: &[u8]| {
            with_room(&pool, bytes.len(), 0, |into| (step.convert)(bytes, into))
        };
        if let Some(direct) = step(from, to) {
            return run(direct, payload);
        }
        // One version at a time, upwards or downwards.
        let mut bytes: Option<PooledBuffer> = None;
        let mut at = from;
        while at != to {
            let next = if at < to { at + 1 } else { at - 1 };
            let Some(step) = step(at, next) else { return Err(unknown) };
            bytes = Some(run(step, bytes.as_deref().unwrap_or(payload))?);
            at = next;
        }
        bytes.ok_or(unknown)
    }

    /// Appends a message's payload as JSON.
    pub fn to_json(
        &self,
        header: &Header,
        payload: &[u8],
        into: &mut PooledBuffer,
    ) -> Result<(), CodecError> {
        (self.version_of(header.type_id, header.version)?.to_json)(payload, into)
    }

    /// Appends the archive of a type, named by its name or an alias, that came as JSON.
    pub fn from_json(
        &self,
        name: &str,
        text: &[u8],
        into: &mut PooledBuffer,
    ) -> Result<TypeInfo, CodecError> {
        let unknown = CodecError::UnknownType { id: type_id(name) };
        let info = *self.get_type_info(name).ok_or(unknown)?;
        (info.from_json)(text, into)?;
        Ok(info)
    }

    /// The version of a type that a peer with this fingerprint knows; `None`: it knows none of ours, and gets JSON.
    pub fn version_for(&self, id: u32, version: u16, fingerprint: u32) -> Option<u16> {
        let info = self.version_of(id, version).ok()?;
        (info.fingerprint == fingerprint).then_some(version)
    }

    pub(crate) fn version_of(&self, id: u32, version: u16) -> Result<&TypeInfo, CodecError> {
        let known = self.types.get(&id).ok_or(CodecError::UnknownType { id })?;
        let mut all = [&known.current].into_iter().chain(&known.others);
        all.find(|info| info.version == version).ok_or(CodecError::UnknownVersion {
            name: known.current.name,
            version,
            known: known.current.version,
        })
    }
}

impl<'a> Checked<'a> {
    /// The value, in place.
    ///
    /// # Errors
    /// [`CodecError::WrongType`], or [`CodecError::UnknownVersion`] for another version of the right type.
    pub fn view<T: WireType>(&self) -> Result<&'a Archived<T>, CodecError> {
        self.require::<T>()?;
        if self.info.version != T::VERSION {
            let (name, version) = (self.info.name, self.info.version);
            return Err(CodecError::UnknownVersion { name, version, known: T::VERSION });
        }
        // Validated a second time rather than trusted: 25 ns, against an unsafe block.
        view::<T>(self.payload)
    }

    fn require<T: WireType>(&self) -> Result<(), CodecError> {
        if self.info.name == T::NAME {
            Ok(())
        } else {
            Err(CodecError::WrongType { found: self.info.name, wanted: T::NAME })
        }
    }
}
