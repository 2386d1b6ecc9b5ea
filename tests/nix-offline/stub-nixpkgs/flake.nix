# Stands in for the input `nixpkgs` where the real one cannot be fetched. nixpkgs' own `lib` must lie beside it.
{
  outputs = _: {
    lib = import ./lib;
  };
}
