import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import hex.ModelCategory;
import hex.genmodel.MojoModel;
import hex.genmodel.easy.EasyPredictModelWrapper;
import hex.genmodel.easy.RowData;
import hex.genmodel.easy.exception.PredictException;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * A scoring program in Java: a model of H2O's, from its MOJO, by Penstock's line protocol (docs/line-protocol.md).
 * Columns go by the names that the model was trained with; a text that it has not met counts as missing.
 */
public final class Mojo {
  private static final String PROBABILITY = "probability";
  private static final Gson ANSWERS = new Gson().newBuilder().serializeNulls().create();

  public static void main(String[] arguments) throws Exception {
    PrintStream out = System.out;
    System.setOut(System.err); // what a library prints is no answer
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    JsonObject hello = JsonParser.parseString(in.readLine()).getAsJsonObject();
    MojoModel model = MojoModel.load(arguments[0]);
    List<String> columns = new ArrayList<>();
    hello.getAsJsonArray("columns").forEach(one -> columns.add(one.getAsJsonObject().get("name").getAsString()));
    String returns = hello.get("returns").getAsString();
    String trouble = trouble(hello.get("penstock").getAsInt(), model, columns, returns);
    say(out, trouble == null ? Map.of("penstock", 1, "returns", returns) : Map.of("penstock", 1, "error", trouble));
    if (trouble != null) {
      return;
    }
    EasyPredictModelWrapper wrapper =
        new EasyPredictModelWrapper(
            new EasyPredictModelWrapper.Config().setModel(model).setConvertUnknownCategoricalLevelsToNa(true));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      List<Double> scores = new ArrayList<>();
      for (JsonElement row : JsonParser.parseString(line).getAsJsonArray()) {
        scores.add(score(wrapper, named(columns, row.getAsJsonArray()), returns));
      }
      say(out, scores);
    }
  }

  /** Why the model cannot be asked so; null where it can. */
  private static String trouble(int version, MojoModel model, List<String> columns, String returns) {
    ModelCategory wanted = returns.equals(PROBABILITY) ? ModelCategory.Binomial : ModelCategory.Regression;
    if (version != 1) {
      return "another protocol";
    }
    if (model.getModelCategory() != wanted) {
      return "the model is of the category " + model.getModelCategory() + ", not " + wanted;
    }
    for (String name : model.features()) {
      if (!columns.contains(name)) {
        return "the model knows a column that does not come: " + name;
      }
    }
    return null;
  }

  private static RowData named(List<String> columns, JsonArray row) {
    RowData data = new RowData();
    for (int i = 0; i < columns.size(); i++) {
      JsonElement value = row.get(i);
      if (!value.isJsonNull()) {
        boolean text = value.getAsJsonPrimitive().isString();
        data.put(columns.get(i), text ? value.getAsString() : (Object) value.getAsDouble());
      }
    }
    return data;
  }

  /** The probability of the second class, or the value; null where the model has none. */
  private static Double score(EasyPredictModelWrapper model, RowData row, String returns) {
    try {
      double found =
          returns.equals(PROBABILITY)
              ? model.predictBinomial(row).classProbabilities[1]
              : model.predictRegression(row).value;
      return Double.isFinite(found) ? found : null;
    } catch (PredictException none) {
      return null;
    }
  }

  private static void say(PrintStream out, Object answer) {
    out.print(ANSWERS.toJson(answer) + "\n");
    out.flush();
  }
}
