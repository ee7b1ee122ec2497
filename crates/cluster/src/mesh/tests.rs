//! Meshes on a virtual network.
mod distance;
mod hostile;
mod network;
